#include "service/http/tls.h"

#include <arpa/inet.h>
#include <openssl/err.h>
#include <openssl/pem.h>
#include <openssl/ssl.h>
#include <openssl/x509v3.h>
#include <sys/stat.h>

#include <algorithm>
#include <array>
#include <ctime>
#include <string_view>

namespace tidepool::http {
namespace {

constexpr std::string_view kRolePrefix = "tidepool:role:";
constexpr int kLongestName = 64;  // what X.509 allows a CN

std::string openssl_text() {
  const unsigned long code = ERR_peek_last_error();
  ERR_clear_error();
  const char* reason = code ? ERR_reason_error_string(code) : nullptr;
  return reason ? reason : "OpenSSL gives no reason";
}

Failure unusable(const std::string& what, const std::string& path, std::string remedy = {}) {
  return failure(std::errc::invalid_argument, what, path, remedy.empty() ? openssl_text() : std::move(remedy));
}

Result<> check_readable(const std::string& what, const std::string& path) {
  if (path.empty()) return unusable("read", what, "TLS needs a certificate, its key and the authority's certificate");
  std::FILE* file = std::fopen(path.c_str(), "re");
  if (!file) return errno_failure("open " + what, path);
  std::fclose(file);
  return {};
}

Result<> check_private(const std::string& path) {
  struct stat info {};
  if (::stat(path.c_str(), &info) != 0) return errno_failure("stat key", path);
  if ((info.st_mode & S_IRWXO) != 0) return unusable("use key", path, "others may read it: chmod o= " + path);
  return {};
}

Result<> check_in_force(SSL_CTX* context, const std::string& path) {
  const X509* own = SSL_CTX_get0_certificate(context);
  if (X509_cmp_current_time(X509_get0_notBefore(own)) > 0)
    return unusable("use certificate", path, "it is not valid yet: is the clock right?");
  if (X509_cmp_current_time(X509_get0_notAfter(own)) < 0)
    return unusable("use certificate", path, "it has expired: tidectl pki rotate makes a new one");
  return {};
}

Result<TlsContext> context_from(const TlsFiles& files, const SSL_METHOD* method) {
  ERR_clear_error();
  if (Result<> there = check_readable("certificate", files.certificate); !there) return Failure(there.error());
  if (Result<> there = check_readable("key", files.key); !there) return Failure(there.error());
  if (Result<> there = check_readable("authority's certificate", files.authority); !there)
    return Failure(there.error());
  if (Result<> safe = check_private(files.key); !safe) return Failure(safe.error());
  TlsContext context{SSL_CTX_new(method)};
  SSL_CTX* raw = context.get();
  if (!raw || SSL_CTX_set_min_proto_version(raw, TLS1_3_VERSION) != 1) return unusable("prepare", "TLS");
  // Nobody types a passphrase here.
  SSL_CTX_set_default_passwd_cb(raw, [](char*, int, int, void*) { return -1; });
  if (SSL_CTX_use_certificate_chain_file(raw, files.certificate.c_str()) != 1)
    return unusable("read certificate", files.certificate);
  if (SSL_CTX_use_PrivateKey_file(raw, files.key.c_str(), SSL_FILETYPE_PEM) != 1) {
    if (ERR_GET_REASON(ERR_peek_last_error()) == X509_R_KEY_VALUES_MISMATCH) {
      ERR_clear_error();
      return unusable("use key", files.key, "it is not that of " + files.certificate);
    }
    return unusable("read key", files.key);
  }
  if (SSL_CTX_load_verify_file(raw, files.authority.c_str()) != 1)
    return unusable("read authority's certificate", files.authority);
  if (Result<> valid = check_in_force(raw, files.certificate); !valid) return Failure(valid.error());
  return context;
}

}  // namespace

void FreeTlsContext::operator()(ssl_ctx_st* context) const {
  SSL_CTX_free(context);
}

Result<TlsContext> server_context(const TlsFiles& files) {
  Result<TlsContext> context = context_from(files, TLS_server_method());
  if (!context) return context;
  SSL_CTX* raw = context->get();
  SSL_CTX_set_verify(raw, SSL_VERIFY_PEER | SSL_VERIFY_FAIL_IF_NO_PEER_CERT, nullptr);
  SSL_CTX_set_purpose(raw, X509_PURPOSE_SSL_CLIENT);
  // No resumption: every connection shows a certificate that is valid then.
  SSL_CTX_set_session_cache_mode(raw, SSL_SESS_CACHE_OFF);
  SSL_CTX_set_num_tickets(raw, 0);
  return context;
}

Result<TlsContext> client_context(const TlsFiles& files) {
  Result<TlsContext> context = context_from(files, TLS_client_method());
  if (!context) return context;
  SSL_CTX_set_verify(context->get(), SSL_VERIFY_PEER, nullptr);
  SSL_CTX_set_purpose(context->get(), X509_PURPOSE_SSL_SERVER);
  return context;
}

namespace {

// SSL_set_tlsext_host_name() as a function: the macro casts.
bool send_name(SSL* connection, std::string host) {
  return SSL_ctrl(connection, SSL_CTRL_SET_TLSEXT_HOSTNAME, TLSEXT_NAMETYPE_host_name, host.data()) == 1;
}

}  // namespace

Result<> expect_name(ssl_st* connection, const std::string& host) {
  std::array<unsigned char, 16> address{};
  const bool numeric = ::inet_pton(AF_INET, host.c_str(), address.data()) == 1 ||
                       ::inet_pton(AF_INET6, host.c_str(), address.data()) == 1;
  const bool set = numeric ? X509_VERIFY_PARAM_set1_ip_asc(SSL_get0_param(connection), host.c_str()) == 1
                           : SSL_set1_host(connection, host.c_str()) == 1 && send_name(connection, host);
  if (!set) return unusable("expect the name", host);
  return {};
}

namespace {

Result<std::string> name_of(const X509* certificate) {
  const X509_NAME* subject = X509_get_subject_name(certificate);
  const int at = X509_NAME_get_index_by_NID(subject, NID_commonName, -1);
  const bool single = at >= 0 && X509_NAME_get_index_by_NID(subject, NID_commonName, at) < 0;
  if (!single) return unusable("identify", "the peer", "its certificate has no common name, or several");
  const ASN1_STRING* text = X509_NAME_ENTRY_get_data(X509_NAME_get_entry(subject, at));
  const std::string_view name{static_cast<const char*>(static_cast<const void*>(ASN1_STRING_get0_data(text))),
                              static_cast<std::size_t>(ASN1_STRING_length(text))};
  const bool plain = std::ranges::all_of(name, [](unsigned char c) { return c > 0x20 && c < 0x7f; });
  if (name.empty() || name.size() > kLongestName || !plain)
    return unusable("identify", "the peer", "its certificate's common name is not 1 to 64 printable characters");
  return std::string(name);
}

std::string role_of(const X509* certificate) {
  std::string role;
  int count = 0;
  auto* names = static_cast<GENERAL_NAMES*>(X509_get_ext_d2i(certificate, NID_subject_alt_name, nullptr, nullptr));
  for (int i = 0; names && i < sk_GENERAL_NAME_num(names); ++i) {
    const GENERAL_NAME* each = sk_GENERAL_NAME_value(names, i);
    if (each->type != GEN_URI) continue;
    const ASN1_IA5STRING* text = each->d.uniformResourceIdentifier;
    const std::string_view uri{static_cast<const char*>(static_cast<const void*>(ASN1_STRING_get0_data(text))),
                               static_cast<std::size_t>(ASN1_STRING_length(text))};
    if (!uri.starts_with(kRolePrefix)) continue;
    ++count;
    role = uri.substr(kRolePrefix.size());
  }
  GENERAL_NAMES_free(names);
  return count == 1 ? role : "";
}

}  // namespace

Result<TlsPeer> peer_of(ssl_st* connection) {
  const X509* certificate = SSL_get0_peer_certificate(connection);
  if (!certificate) return unusable("identify", "the peer", "it has no certificate");
  Result<std::string> name = name_of(certificate);
  if (!name) return Failure(name.error());
  std::tm until{};
  if (ASN1_TIME_to_tm(X509_get0_notAfter(certificate), &until) != 1)
    return unusable("identify", "the peer", "its certificate's end cannot be read");
  return TlsPeer{std::move(*name), role_of(certificate), std::chrono::system_clock::from_time_t(::timegm(&until))};
}

std::string verification_problem(const ssl_st* connection) {
  const long result = SSL_get_verify_result(connection);
  return result == X509_V_OK ? "" : X509_verify_cert_error_string(result);
}

}  // namespace tidepool::http
