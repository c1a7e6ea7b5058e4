#include "service/http/pki.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <openssl/err.h>
#include <openssl/evp.h>
#include <openssl/pem.h>
#include <openssl/rand.h>
#include <openssl/x509v3.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cctype>
#include <cerrno>
#include <filesystem>
#include <memory>

#include "base/unique_fd.h"

namespace tidepool::http {
namespace {

constexpr std::array<std::string_view, 5> kRoles{"admin", "agent", "server", "reader", "controller"};
constexpr std::string_view kController = "controller";
constexpr std::string_view kRoleUri = "tidepool:role:";
constexpr std::chrono::minutes kClockSkew{5};  // of those who see a certificate early
constexpr std::size_t kLongestName = 64;
constexpr std::size_t kLongestHost = 253;

template <auto free>
struct FreeWith {
  template <class T>
  void operator()(T* thing) const {
    free(thing);
  }
};
using Key = std::unique_ptr<EVP_PKEY, FreeWith<EVP_PKEY_free>>;
using Certificate = std::unique_ptr<X509, FreeWith<X509_free>>;
using Bio = std::unique_ptr<BIO, FreeWith<BIO_free_all>>;
using Extension = std::unique_ptr<X509_EXTENSION, FreeWith<X509_EXTENSION_free>>;

Failure openssl_failure(const std::string& attempted, const std::string& subject) {
  const char* reason = ERR_reason_error_string(ERR_peek_last_error());
  ERR_clear_error();
  return failure(std::errc::io_error, attempted, subject, reason ? reason : "");
}

Failure invalid(const std::string& what, const std::string& subject, std::string remedy) {
  return failure(std::errc::invalid_argument, what, "'" + subject.substr(0, 300) + "'", std::move(remedy));
}

// ---- files --------------------------------------------------------------------------------------------------------

std::string certificate_file(const std::string& folder, const std::string& name) {
  return folder + "/" + name + ".pem";
}
std::string key_file(const std::string& folder, const std::string& name) {
  return folder + "/" + name + ".key";
}

Result<> write_new(const std::string& path, std::string_view content, mode_t mode) {
  const UniqueFd file{::open(path.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, mode)};
  if (!file.valid()) return errno_failure("create", path);
  while (!content.empty()) {
    const ssize_t written = ::write(file.get(), content.data(), content.size());
    if (written < 0 && errno == EINTR) continue;
    if (written <= 0) return errno_failure("write", path);
    content.remove_prefix(static_cast<std::size_t>(written));
  }
  if (::fsync(file.get()) != 0) return errno_failure("write", path);
  return {};
}

// Complete or as it was.
Result<> replace(const std::string& path, std::string_view content, mode_t mode) {
  const std::string next = path + ".new";
  ::unlink(next.c_str());  // of one that was interrupted
  if (Result<> written = write_new(next, content, mode); !written) return written;
  if (::rename(next.c_str(), path.c_str()) != 0) return errno_failure("replace", path);
  return {};
}

template <class Write>
std::string pem_of(Write write) {
  const Bio memory{BIO_new(BIO_s_mem())};
  write(memory.get());
  char* text = nullptr;
  const long size = BIO_get_mem_data(memory.get(), &text);
  return {text, static_cast<std::size_t>(size)};
}
std::string pem_of(EVP_PKEY* key) {
  return pem_of([&](BIO* to) { PEM_write_bio_PrivateKey(to, key, nullptr, nullptr, 0, nullptr, nullptr); });
}
std::string pem_of(X509* certificate) {
  return pem_of([&](BIO* to) { PEM_write_bio_X509(to, certificate); });
}

Result<Bio> open_pem(const std::string& path) {
  Bio file{BIO_new_file(path.c_str(), "r")};
  const int problem = errno;
  if (!file) {
    ERR_clear_error();
    return failure_from(problem, "open", path);
  }
  return file;
}

// The first ones of a file.
Result<Certificate> read_certificate(const std::string& path) {
  Result<Bio> file = open_pem(path);
  if (!file) return Failure(file.error());
  Certificate certificate{PEM_read_bio_X509(file->get(), nullptr, nullptr, nullptr)};
  if (!certificate) return openssl_failure("read certificate", path);
  return certificate;
}
Result<Key> read_key(const std::string& path) {
  Result<Bio> file = open_pem(path);
  if (!file) return Failure(file.error());
  Key key{PEM_read_bio_PrivateKey(
      file->get(), nullptr, [](char*, int, int, void*) { return -1; }, nullptr)};
  if (!key) return openssl_failure("read key", path);
  return key;
}

// ---- identities ---------------------------------------------------------------------------------------------------

bool plain(std::string_view text) {
  return std::ranges::all_of(text, [](unsigned char c) { return std::isalnum(c) || c == '.' || c == '_' || c == '-'; });
}

bool is_address(const std::string& host) {
  std::array<unsigned char, 16> bytes{};
  return ::inet_pton(AF_INET, host.c_str(), bytes.data()) == 1 ||
         ::inet_pton(AF_INET6, host.c_str(), bytes.data()) == 1;
}

Result<> check(const Identity& identity) {
  const std::string& name = identity.name;
  if (name.empty() || name.size() > kLongestName || !plain(name) ||
      !std::isalnum(static_cast<unsigned char>(name.front())))
    return invalid("issue to", name, "a name has 1 to 64 of A-Z a-z 0-9 . _ - and begins with a letter or digit");
  if (name == "ca") return invalid("issue to", name, "that is the authority's own name");
  if (std::ranges::find(kRoles, identity.role) == kRoles.end())
    return invalid("use role", identity.role, "admin, agent, server, reader or controller");
  for (const std::string& host : identity.hosts)
    if (host.empty() || host.size() > kLongestHost || !(is_address(host) || plain(host)))
      return invalid("use host", host, "a DNS name, or an IPv4 or IPv6 address");
  if (identity.role == kController && identity.hosts.empty())
    return invalid("issue to", name, "a controller needs the names and addresses under which others reach it");
  return {};
}

Identity identity_of(const X509* certificate) {
  Identity identity;
  std::array<char, 256> name{};
  X509_NAME_get_text_by_NID(X509_get_subject_name(certificate), NID_commonName, name.data(), name.size());
  identity.name = name.data();
  auto* names = static_cast<GENERAL_NAMES*>(X509_get_ext_d2i(certificate, NID_subject_alt_name, nullptr, nullptr));
  for (int i = 0; names && i < sk_GENERAL_NAME_num(names); ++i) {
    const GENERAL_NAME* each = sk_GENERAL_NAME_value(names, i);
    const ASN1_STRING* text = each->type == GEN_IPADD ? each->d.iPAddress : each->d.ia5;
    if (each->type != GEN_IPADD && each->type != GEN_DNS && each->type != GEN_URI) continue;
    const unsigned char* bytes = ASN1_STRING_get0_data(text);
    const std::string value{static_cast<const char*>(static_cast<const void*>(bytes)),
                            static_cast<std::size_t>(ASN1_STRING_length(text))};
    if (each->type == GEN_URI && value.starts_with(kRoleUri)) identity.role = value.substr(kRoleUri.size());
    if (each->type == GEN_DNS) identity.hosts.push_back(value);
    if (each->type == GEN_IPADD) {
      std::array<char, INET6_ADDRSTRLEN> address{};
      const int family = value.size() == 4 ? AF_INET : AF_INET6;
      if ((value.size() == 4 || value.size() == 16) &&
          ::inet_ntop(family, bytes, address.data(), address.size()) != nullptr)
        identity.hosts.emplace_back(address.data());
    }
  }
  GENERAL_NAMES_free(names);
  return identity;
}

std::chrono::system_clock::time_point end_of(const X509* certificate) {
  std::tm until{};
  ASN1_TIME_to_tm(X509_get0_notAfter(certificate), &until);
  return std::chrono::system_clock::from_time_t(::timegm(&until));
}

// ---- certificates -------------------------------------------------------------------------------------------------

bool add_extension(X509* certificate, X509* issuer, int kind, const std::string& text) {
  X509V3_CTX context{};
  X509V3_set_ctx(&context, issuer, certificate, nullptr, nullptr, 0);
  const Extension extension{X509V3_EXT_conf_nid(nullptr, &context, kind, text.c_str())};
  return extension && X509_add_ext(certificate, extension.get(), -1) == 1;
}

bool set_serial(X509* certificate) {
  std::array<unsigned char, 16> bytes{};
  if (RAND_bytes(bytes.data(), bytes.size()) != 1) return false;
  bytes[0] = static_cast<unsigned char>((bytes[0] & 0x3f) | 0x40);  // positive, and as long as it should be
  BIGNUM* number = BN_bin2bn(bytes.data(), bytes.size(), nullptr);
  const bool set = number && BN_to_ASN1_INTEGER(number, X509_get_serialNumber(certificate)) != nullptr;
  BN_free(number);
  return set;
}

std::string alternative_names(const Identity& identity) {
  std::string text = "URI:" + std::string(kRoleUri) + identity.role;
  for (const std::string& host : identity.hosts) text += (is_address(host) ? ",IP:" : ",DNS:") + host;
  return text;
}

// Without `issuer`: the authority itself.
Certificate make_certificate(const Identity& identity, EVP_PKEY* key, X509* issuer, EVP_PKEY* issuer_key,
                             std::chrono::seconds valid) {
  Certificate made{X509_new()};
  X509* raw = made.get();
  const std::time_t now = std::chrono::system_clock::to_time_t(std::chrono::system_clock::now());
  const std::time_t begin = now - std::chrono::seconds(kClockSkew).count();
  const std::time_t end = now + valid.count();
  bool good = raw && X509_set_version(raw, X509_VERSION_3) == 1 && set_serial(raw) &&
              ASN1_TIME_set(X509_getm_notBefore(raw), std::min(begin, end - 1)) &&
              ASN1_TIME_set(X509_getm_notAfter(raw), end) && X509_set_pubkey(raw, key) == 1;
  if (!good) return nullptr;
  X509_NAME* subject = X509_get_subject_name(raw);
  const auto* name = static_cast<const unsigned char*>(static_cast<const void*>(identity.name.c_str()));
  good = X509_NAME_add_entry_by_txt(subject, "CN", MBSTRING_ASC, name, -1, -1, 0) == 1 &&
         X509_set_issuer_name(raw, issuer ? X509_get_subject_name(issuer) : subject) == 1 &&
         add_extension(raw, issuer ? issuer : raw, NID_subject_key_identifier, "hash");
  if (issuer) {
    const std::string use = identity.role == kController ? "serverAuth,clientAuth" : "clientAuth";
    good = good && add_extension(raw, issuer, NID_authority_key_identifier, "keyid") &&
           add_extension(raw, issuer, NID_basic_constraints, "critical,CA:FALSE") &&
           add_extension(raw, issuer, NID_key_usage, "critical,digitalSignature") &&
           add_extension(raw, issuer, NID_ext_key_usage, use) &&
           add_extension(raw, issuer, NID_subject_alt_name, alternative_names(identity));
  } else {
    good = good && add_extension(raw, raw, NID_basic_constraints, "critical,CA:TRUE,pathlen:0") &&
           add_extension(raw, raw, NID_key_usage, "critical,keyCertSign,cRLSign");
  }
  if (!good || X509_sign(raw, issuer_key, EVP_sha256()) == 0) return nullptr;
  return made;
}

struct Made {
  Key key;
  Certificate certificate;
};

Result<Made> make_pair(const Identity& identity, X509* issuer, EVP_PKEY* issuer_key, std::chrono::seconds valid) {
  Made made;
  made.key.reset(EVP_EC_gen("P-256"));
  if (!made.key) return openssl_failure("make a key for", identity.name);
  made.certificate =
      make_certificate(identity, made.key.get(), issuer, issuer_key ? issuer_key : made.key.get(), valid);
  if (!made.certificate) return openssl_failure("make a certificate for", identity.name);
  return made;
}

Issued issued_as(const std::string& folder, const std::string& name, const X509* certificate) {
  return {identity_of(certificate),
          {certificate_file(folder, name), key_file(folder, name), certificate_file(folder, "ca")},
          end_of(certificate)};
}

Result<Made> make_for(const std::string& folder, const Identity& identity, std::chrono::seconds valid) {
  Result<Certificate> authority = read_certificate(certificate_file(folder, "ca"));
  if (!authority) {
    Error error = authority.error();
    error.remedy = "tidectl pki init " + folder + " makes an authority";
    return Failure(error);
  }
  const Result<Key> key = read_key(key_file(folder, "ca"));
  if (!key) return Failure(key.error());
  return make_pair(identity, authority->get(), key->get(), valid);
}

// Both files or none.
Result<> write_pair(const std::string& folder, const std::string& name, const Made& made) {
  const std::string key_path = key_file(folder, name);
  if (Result<> written = write_new(key_path, pem_of(made.key.get()), 0600); !written) return written;
  Result<> written = write_new(certificate_file(folder, name), pem_of(made.certificate.get()), 0644);
  if (!written) ::unlink(key_path.c_str());
  return written;
}

Identity authority_identity() {
  return {"tidepool authority", "", {}};
}

}  // namespace

std::span<const std::string_view> pki_roles() {
  return kRoles;
}

Result<Issued> make_authority(const std::string& folder, std::chrono::seconds valid) {
  if (::mkdir(folder.c_str(), 0700) != 0 && errno != EEXIST) return errno_failure("create folder", folder);
  struct stat info {};
  if (::stat(folder.c_str(), &info) != 0) return errno_failure("stat", folder);
  if (!S_ISDIR(info.st_mode) || (info.st_mode & S_IWOTH) != 0)
    return invalid("use folder", folder, "it must be a folder that others cannot write to");
  const Result<Made> made = make_pair(authority_identity(), nullptr, nullptr, valid);
  if (!made) return Failure(made.error());
  if (Result<> written = write_pair(folder, "ca", *made); !written) return Failure(written.error());
  return issued_as(folder, "ca", made->certificate.get());
}

Result<Issued> issue(const std::string& folder, const Identity& identity, std::chrono::seconds valid) {
  if (Result<> good = check(identity); !good) return Failure(good.error());
  if (std::filesystem::exists(certificate_file(folder, identity.name)))
    return failure(std::errc::file_exists, "issue", certificate_file(folder, identity.name),
                   "tidectl pki rotate replaces it");
  const Result<Made> made = make_for(folder, identity, valid);
  if (!made) return Failure(made.error());
  if (Result<> written = write_pair(folder, identity.name, *made); !written) return Failure(written.error());
  return issued_as(folder, identity.name, made->certificate.get());
}

Result<Issued> rotate(const std::string& folder, const std::string& name, std::chrono::seconds valid) {
  const Result<Certificate> former = read_certificate(certificate_file(folder, name));
  if (!former) return Failure(former.error());
  const Identity identity = identity_of(former->get());
  if (identity.name != name) return invalid("rotate", name, "its certificate is of '" + identity.name + "'");
  if (Result<> good = check(identity); !good) return Failure(good.error());
  const Result<Made> made = make_for(folder, identity, valid);
  if (!made) return Failure(made.error());
  if (Result<> done = replace(key_file(folder, name), pem_of(made->key.get()), 0600); !done)
    return Failure(done.error());
  if (Result<> done = replace(certificate_file(folder, name), pem_of(made->certificate.get()), 0644); !done)
    return Failure(done.error());
  return issued_as(folder, name, made->certificate.get());
}

Result<Issued> rotate_authority(const std::string& folder, std::chrono::seconds valid) {
  const std::string trusted_path = certificate_file(folder, "ca");
  Result<Bio> file = open_pem(trusted_path);
  if (!file) return Failure(file.error());
  std::string former;
  while (const Certificate each{PEM_read_bio_X509(file->get(), nullptr, nullptr, nullptr)})
    former += pem_of(each.get());
  ERR_clear_error();
  const Result<Made> made = make_pair(authority_identity(), nullptr, nullptr, valid);
  if (!made) return Failure(made.error());
  if (Result<> done = replace(key_file(folder, "ca"), pem_of(made->key.get()), 0600); !done)
    return Failure(done.error());
  if (Result<> done = replace(trusted_path, pem_of(made->certificate.get()) + former, 0644); !done)
    return Failure(done.error());
  return issued_as(folder, "ca", made->certificate.get());
}

Result<std::vector<Issued>> issued_in(const std::string& folder) {
  std::vector<Issued> all;
  std::error_code error;
  for (std::filesystem::directory_iterator at(folder, error), end; !error && at != end; at.increment(error)) {
    const std::filesystem::path& path = at->path();
    const std::string name = path.stem().string();
    if (path.extension() != ".pem" || name == "ca" || !std::filesystem::exists(key_file(folder, name))) continue;
    const Result<Certificate> certificate = read_certificate(path.string());
    if (!certificate) return Failure(certificate.error());
    all.push_back(issued_as(folder, name, certificate->get()));
  }
  if (error) return failure_from(error.value(), "read folder", folder);
  std::ranges::sort(all, {}, [](const Issued& each) { return each.identity.name; });
  return all;
}

}  // namespace tidepool::http
