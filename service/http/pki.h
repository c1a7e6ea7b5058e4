// Certificates for mutual TLS between Tidepool's programs: an authority in a folder, and what it issues.
//
// ECDSA P-256, SHA-256. In the folder (0700): ca.pem and ca.key, NAME.pem and NAME.key for whoever it issued to; keys
// are 0600. Nothing is ever overwritten but by rotation. The role stands in the certificate (URI tidepool:role:ROLE),
// the name is its CN.
#pragma once

#include <chrono>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "service/http/tls.h"

namespace tidepool::http {

// admin, agent, server, reader; controller: the only ones that others may connect to.
std::span<const std::string_view> pki_roles();

struct Identity {
  std::string name;  // 1 to 64 of A-Z a-z 0-9 . _ -, beginning with a letter or digit
  std::string role;
  std::vector<std::string> hosts;  // DNS names and addresses under which it is reached; a controller has one at least
};

struct Issued {
  Identity identity;
  TlsFiles files;
  std::chrono::system_clock::time_point valid_until;
};

// Makes the folder (its parent must exist; it may exist and be empty of an authority). file_exists: there is one.
Result<Issued> make_authority(const std::string& folder, std::chrono::seconds valid);

// file_exists: the name was issued to; rotate instead. invalid_argument: the name, role or a host makes no sense.
Result<Issued> issue(const std::string& folder, const Identity& identity, std::chrono::seconds valid);

// A new key and a new certificate for the same identity, read from its certificate; the files are replaced, each at
// once, the key first. no_such_file_or_directory: nothing was issued to that name.
Result<Issued> rotate(const std::string& folder, const std::string& name, std::chrono::seconds valid);

// A new authority's key. ca.pem has the new certificate and behind it the former ones, which are still trusted until
// they are taken out of the file.
Result<Issued> rotate_authority(const std::string& folder, std::chrono::seconds valid);

// Everybody that the folder has a certificate of, in the order of names; without the authority.
Result<std::vector<Issued>> issued_in(const std::string& folder);

}  // namespace tidepool::http
