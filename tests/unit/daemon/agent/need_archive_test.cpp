// Goal: what VMs need survives restarts, and no file can make the agent believe nonsense.
#include "daemon/agent/need_archive.h"

#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>

#include "policy/utilisation.h"

namespace tidepool::daemon {
namespace {

std::string need_of(unsigned minutes) {
  policy::Utilisation history;
  for (unsigned i = 0; i < minutes; ++i) history.record(i % 6, Bytes{1ull << 30}, Bytes{4ull << 30});
  return history.text();
}

class Archive : public testing::Test {
 protected:
  Archive() { std::filesystem::create_directory(folder_); }
  ~Archive() override { std::filesystem::remove_all(folder_); }
  const std::string folder_ = std::filesystem::temp_directory_path() / ("tidepool-need-" + std::to_string(::getpid()));
  const std::string file_ = folder_ + "/deep/need";
};

TEST_F(Archive, GivesBackWhatItWasGiven) {
  NeedArchive archive;
  archive.put("web-3", need_of(400), 1000);
  archive.put("db 1", need_of(7), 2000);
  ASSERT_TRUE(archive.save(file_));
  struct stat info {};
  ASSERT_EQ(::stat(file_.c_str(), &info), 0);
  EXPECT_EQ(info.st_mode & 0777, 0600u);
  const auto again = NeedArchive::load(file_);
  ASSERT_TRUE(again) << again.error().message();
  EXPECT_EQ(again->lost(), 0u);
  EXPECT_EQ(again->find("web-3"), need_of(400));
  EXPECT_EQ(again->find("db 1"), need_of(7));
  EXPECT_EQ(again->find("nobody"), "");
  EXPECT_EQ(again->text(), archive.text());
  EXPECT_TRUE(policy::Utilisation::parse(again->find("web-3"))->known());
}

TEST_F(Archive, WithoutAFileIsEmpty) {
  const auto none = NeedArchive::load(file_);
  ASSERT_TRUE(none);
  EXPECT_EQ(none->size(), 0u);
}

TEST_F(Archive, ReadsNothingButItsOwnFile) {
  EXPECT_FALSE(NeedArchive::load(folder_));
  EXPECT_FALSE(NeedArchive::load("/dev/zero"));
  std::filesystem::create_symlink("/etc/passwd", folder_ + "/link");
  EXPECT_FALSE(NeedArchive::load(folder_ + "/link"));
  EXPECT_FALSE(NeedArchive{}.save("/proc/nowhere/need"));
}

TEST_F(Archive, LeavesNothingBehindThatItCouldNotFinish) {
  std::filesystem::create_directories(file_ + "/in the way");
  EXPECT_FALSE(NeedArchive{}.save(file_));
  EXPECT_FALSE(std::filesystem::exists(file_ + ".new"));
}

TEST_F(Archive, LeavesOutLinesThatMakeNoSense) {
  const std::string good = "5\t" + need_of(3) + "\tweb\n";
  const std::string first = "tidepool-need 1\n";
  EXPECT_EQ(NeedArchive::parse(first + good).size(), 1u);
  for (const std::string& bad :
       {std::string("\n"), std::string("\t\t\n"), std::string("5\tv0 nonsense\tweb\n"), "x\t" + need_of(3) + "\tweb\n",
        "5\t" + need_of(3) + "\n", "5\t" + need_of(3) + "\t\n",
        "5\t" + need_of(3) + "\t" + std::string(300, 'a') + "\n", "99999999999999999999999\t" + need_of(3) + "\tweb\n",
        "5\t" + need_of(3) + "\ta\x01\n", std::string(4096, '\0') + "\n"}) {
    const NeedArchive archive = NeedArchive::parse(first + bad + good);
    EXPECT_EQ(archive.size(), 1u) << bad;
    EXPECT_EQ(archive.lost(), 1u) << bad;
  }
  for (const char* other : {"tidepool-need 2\n", "\n",
                            "\x7f"
                            "ELF",
                            "x"}) {
    const NeedArchive archive = NeedArchive::parse(other + good);
    EXPECT_EQ(archive.size(), 0u);
    EXPECT_EQ(archive.lost(), 1u);
  }
  // Cut in the middle.
  const std::string whole = first + good + good;
  for (std::size_t length = 0; length < whole.size(); ++length)
    EXPECT_LE(NeedArchive::parse(whole.substr(0, length)).size(), 1u);
}

TEST_F(Archive, IsBounded) {
  NeedArchive archive;
  const std::string need = need_of(1);
  for (int i = 0; i < 5000; ++i) archive.put("vm-" + std::to_string(i), need, i);
  EXPECT_EQ(archive.size(), NeedArchive::kMostVms);
  EXPECT_EQ(archive.find("vm-0"), "") << "seen longest ago";
  EXPECT_EQ(archive.find("vm-4999"), need);
  archive.put("a\tb", need, 1);
  archive.put("", need, 1);
  EXPECT_EQ(archive.size(), NeedArchive::kMostVms);
}

}  // namespace
}  // namespace tidepool::daemon
