// Certificates: what is made, and what is never overwritten.
#include "service/http/pki.h"

#include <gtest/gtest.h>
#include <sys/stat.h>

#include <filesystem>
#include <fstream>
#include <sstream>

#include "tests/unit/service/http_kit.h"

namespace tidepool::http::testing {
namespace {

using namespace std::chrono_literals;

std::string content_of(const std::string& path) {
  std::ifstream file(path);
  std::stringstream text;
  text << file.rdbuf();
  return text.str();
}

mode_t mode_of(const std::string& path) {
  struct stat info {};
  EXPECT_EQ(::stat(path.c_str(), &info), 0) << path;
  return info.st_mode & 07777;
}

TEST(Pki, KeysAreForTheirOwnerOnly) {
  const Folder folder;
  const std::string pki = folder / "pki";
  const Result<Issued> authority = make_authority(pki, 1h);
  ASSERT_TRUE(authority) << authority.error().message();
  EXPECT_EQ(mode_of(pki), 0700u);
  EXPECT_EQ(mode_of(pki + "/ca.key"), 0600u);
  const Result<Issued> issued = issue(pki, {"host-1", "agent", {}}, 1h);
  ASSERT_TRUE(issued);
  EXPECT_EQ(issued->files.key, pki + "/host-1.key");
  EXPECT_EQ(mode_of(issued->files.key), 0600u);
}

TEST(Pki, NothingIsOverwritten) {
  const Folder folder;
  const std::string pki = folder / "pki";
  ASSERT_TRUE(make_authority(pki, 1h));
  ASSERT_TRUE(issue(pki, {"host-1", "agent", {}}, 1h));
  const std::string before = content_of(pki + "/ca.key") + content_of(pki + "/host-1.key");
  const Result<Issued> again = make_authority(pki, 1h);
  ASSERT_FALSE(again);
  EXPECT_EQ(again.error().code, std::make_error_condition(std::errc::file_exists));
  const Result<Issued> twice = issue(pki, {"host-1", "admin", {}}, 1h);
  ASSERT_FALSE(twice);
  EXPECT_EQ(twice.error().code, std::make_error_condition(std::errc::file_exists));
  std::filesystem::remove(pki + "/host-1.pem");
  EXPECT_FALSE(issue(pki, {"host-1", "agent", {}}, 1h)) << "its key is there";
  EXPECT_EQ(content_of(pki + "/ca.key") + content_of(pki + "/host-1.key"), before);
}

TEST(Pki, RotationKeepsWhoItIs) {
  const Folder folder;
  const std::string pki = folder / "pki";
  ASSERT_TRUE(make_authority(pki, 1h));
  const Identity identity{"controller-1", "controller", {"pool.example", "10.0.0.1", "2001:db8::1"}};
  ASSERT_TRUE(issue(pki, identity, 1h));
  const std::string key = content_of(pki + "/controller-1.key");
  const Result<Issued> rotated = rotate(pki, "controller-1", 2h);
  ASSERT_TRUE(rotated) << rotated.error().message();
  EXPECT_EQ(rotated->identity.role, "controller");
  EXPECT_EQ(rotated->identity.hosts, identity.hosts);
  EXPECT_NE(content_of(pki + "/controller-1.key"), key);
  EXPECT_GT(rotated->valid_until, std::chrono::system_clock::now() + 90min);
  EXPECT_FALSE(rotate(pki, "nobody", 1h));
  ASSERT_TRUE(issue(pki, {"host-1", "agent", {}}, 1h));
  const auto all = issued_in(pki);
  ASSERT_TRUE(all);
  ASSERT_EQ(all->size(), 2u);
  EXPECT_EQ(all->front().identity.name, "controller-1");
  EXPECT_EQ(all->back().identity.role, "agent");
}

TEST(Pki, NamesRolesAndHostsThatMakeNoSenseAreRefused) {
  const Folder folder;
  const std::string pki = folder / "pki";
  EXPECT_FALSE(issue(pki, {"host-1", "agent", {}}, 1h)) << "no authority";
  ASSERT_TRUE(make_authority(pki, 1h));
  for (const std::string& name : {std::string(), std::string("../x"), std::string("a b"), std::string("ca"),
                                  std::string(".x"), std::string(65, 'x'), std::string("a\nb")})
    EXPECT_FALSE(issue(pki, {name, "agent", {}}, 1h)) << name;
  EXPECT_FALSE(issue(pki, {"host-1", "root", {}}, 1h));
  EXPECT_FALSE(issue(pki, {"c", "controller", {}}, 1h)) << "nobody could connect to it";
  EXPECT_FALSE(issue(pki, {"c", "controller", {"a,DNS:evil.example"}}, 1h));
  EXPECT_FALSE(std::filesystem::exists(pki + "/c.key"));
}

}  // namespace
}  // namespace tidepool::http::testing
