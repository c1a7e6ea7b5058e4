// What tidectl's exit status means. docs/cli.md tells the same.
#pragma once

namespace tidepool::cli {

enum class ExitCode : int {
  kOk = 0,
  kFailed = 1,       // tried and failed; also: doctor or health found something broken
  kUsage = 2,        // the command line makes no sense, or an answer was needed and nobody could give it
  kRefused = 3,      // understood, and not done for a reason that was printed
  kUnreachable = 4,  // no agent answers, or it is too busy to
  kTimedOut = 5,     // no answer or no end in time, or only a part was done
};

}  // namespace tidepool::cli
