// Mutual TLS 1.3 with certificates of one's own authority: contexts from PEM files, and who a peer is.
#pragma once

#include <chrono>
#include <memory>
#include <string>

#include "base/result.h"
#include "service/http/message.h"

extern "C" {
struct ssl_ctx_st;
struct ssl_st;
}

namespace tidepool::http {

// PEM. All three together, or none.
struct TlsFiles {
  std::string certificate;  // own, with intermediates behind it
  std::string key;          // of `certificate`; readable by nobody else than owner and group
  std::string authority;    // certificates that peers must be signed by

  bool empty() const { return certificate.empty() && key.empty() && authority.empty(); }
};

struct FreeTlsContext {
  void operator()(ssl_ctx_st* context) const;
};
using TlsContext = std::unique_ptr<ssl_ctx_st, FreeTlsContext>;

// Errors name the file: unreadable, not PEM, key that others may read, key of another certificate, certificate not
// valid (yet or any more). Files are read now and not again.
Result<TlsContext> server_context(const TlsFiles& files);  // a client without a certificate of the authority ends
// Verifies that the server has a certificate for servers; its name is for the caller to set (expect_name()).
Result<TlsContext> client_context(const TlsFiles& files);

// The server must be called so (DNS name or IP address in its certificate).
Result<> expect_name(ssl_st* connection, const std::string& host);

struct TlsPeer {
  std::string name;
  std::string role;
  std::chrono::system_clock::time_point valid_until;
};
// After the handshake. Errors: no certificate, or a name that is not printable ASCII of 1 to 64 bytes.
Result<TlsPeer> peer_of(ssl_st* connection);

// Why a handshake failed, for people, from a verification result (X509_V_ERR_*); empty for X509_V_OK.
std::string verification_problem(const ssl_st* connection);

}  // namespace tidepool::http
