// SPDX-License-Identifier: MIT
#pragma once
/// @file
/// A new file that takes the place of an old one at once, or not at all, and whose writing another process can take up again.
///
/// Beside a file that can be taken up again, `<path>.partial`, lies a journal of the steps that are whole:
///
///     nibble journal 1: <fingerprint>\n
///     <end of the step's bytes in the file> <checksum of its bytes> <the caller's note>\n
///     ...
///
/// Lines are appended after their bytes were written, and the checksums are compared before a step is taken over: neither a
/// kill nor a power failure makes a damaged file look whole.

#include <algorithm>
#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <functional>
#include <iterator>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <nibble/core/aligned_vector.hpp>
#include <nibble/core/config.hpp>
#include <nibble/core/error.hpp>
#include <nibble/io/checksum.hpp>

#if !__has_include(<unistd.h>)
#error "nibble/io/atomic_file.hpp needs POSIX (unistd.h)"
#endif
#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

namespace nibble {
inline namespace NIBBLE_ABI {
namespace io {

/// How a file is written so that what is whole of it outlives the process.
struct resumption {
  std::string
      fingerprint;  ///< one line of text: all that the file's bytes follow from. Steps of another are not taken over.
  bool resume = false;  ///< take over what is there; else begin anew
  std::function<void(std::string_view)> say =
      {};  ///< told in one line what was found of an earlier process, if anything
  /// A line that the journal keeps with a tensor that is whole, and what gets it when that tensor is taken over.
  std::function<std::string(std::string_view tensor)> note = {};
  std::function<void(std::string_view tensor, std::string_view note)> restored = {};
};

/// Writes a file beside `path` and renames it over `path` in commit(), so that a reader sees the old file or the whole new
/// one. Without commit() the destructor removes what was written, or leaves it with its journal to be taken up again. All
/// functions throw io_failed with the path and the system's reason.
class atomic_file {
 public:
  /// `who` begins each message: the name of the writer.
  atomic_file(std::string who, std::string path)
      : who_(std::move(who)), path_(std::move(path)), temporary_(core::message(path_, ".", ::getpid(), ".tmp")) {
    open(O_EXCL);
  }
  /// Keeps a journal, and takes over the steps of an earlier process as `how` says. Throws io_failed when another process is
  /// writing the same file.
  atomic_file(std::string who, std::string path, const resumption& how)
      : who_(std::move(who)),
        path_(std::move(path)),
        temporary_(path_ + ".partial"),
        journal_path_(temporary_ + ".journal") {
    open(0);
    if (::flock(fd_, LOCK_EX | LOCK_NB) != 0) refuse("lock");
    take_over(how);
  }
  atomic_file(const atomic_file&) = delete;
  atomic_file& operator=(const atomic_file&) = delete;
  ~atomic_file() {
    if (journal_path_.empty()) discard();
    else close();
  }

  void write(std::span<const std::byte> bytes) {
    while (!bytes.empty()) {
      const std::size_t n = std::min(bytes.size(), piece - buffer_.size());
      buffer_.insert(buffer_.end(), bytes.begin(), bytes.begin() + static_cast<std::ptrdiff_t>(n));
      bytes = bytes.subspan(n);
      written_ += n;
      if (buffer_.size() == piece) flush();
    }
  }
  void write(std::string_view text) { write(std::as_bytes(std::span{text})); }

  /// Bytes of the file so far.
  std::uint64_t written() const noexcept { return written_; }

  /// The notes of the steps that an earlier process finished: their bytes are in the file, and what is written follows them.
  const std::vector<std::string>& finished() const noexcept { return finished_; }
  /// What was written since the last step is whole: it will be taken over. `note` is one line. Nothing without a journal.
  void finish_step(std::string_view note) {
    if (journal_path_.empty()) return;
    flush();
    if (note.find('\n') != note.npos) core::fail(errc::bad_value, who_, ": a note of two lines: '", note, "'");
    append(core::message(written_, " ", sum_, " ", note, "\n"));
    sum_ = 0;
  }

  /// Everything reaches the disk, then the file takes its name. Nothing can be written after it.
  void commit() {
    flush();
    if (::fsync(fd_) != 0) refuse("write");
    if (std::rename(temporary_.c_str(), path_.c_str()) != 0) {
      const int reason = errno;
      discard();
      core::fail(errc::io_failed, who_, ": cannot rename '", temporary_, "' to '", path_, "': ", std::strerror(reason));
    }
    if (!journal_path_.empty()) std::remove(journal_path_.c_str());
    close();
  }
  /// Removes what was written, and its journal.
  void discard() noexcept {
    if (fd_ < 0) return;
    std::remove(temporary_.c_str());
    if (!journal_path_.empty()) std::remove(journal_path_.c_str());
    close();
  }

 private:
  /// What is handed to the system at once. Part of the journal's form: a step's checksum is chained over its pieces.
  static constexpr std::size_t piece = std::size_t{1} << 20;

  void open(int flags) {
    fd_ = ::open(temporary_.c_str(), O_RDWR | O_CREAT | O_CLOEXEC | flags, 0666);
    if (fd_ < 0) refuse("create");
    buffer_.reserve(piece);
  }
  void close() noexcept {
    if (journal_ >= 0) ::close(std::exchange(journal_, -1));
    if (fd_ >= 0) ::close(std::exchange(fd_, -1));
  }
  [[noreturn]] void refuse(const char* what) {
    const int reason = errno;
    const bool kept = !journal_path_.empty() && !finished_.empty();
    if (journal_path_.empty()) discard();
    else close();
    core::fail(errc::io_failed, who_, ": cannot ", what, " '", temporary_, "': ", std::strerror(reason),
               kept ? "; the tensors that are whole can be taken over" : "");
  }
  void put(int fd, const void* bytes, std::size_t size) {
    for (const char* p = static_cast<const char*>(bytes); size != 0;) {
      const ::ssize_t n = ::write(fd, p, size);
      if (n < 0 && errno == EINTR) continue;
      if (n <= 0) refuse("write");
      p += n;
      size -= static_cast<std::size_t>(n);
    }
  }
  void flush() {
    if (buffer_.empty()) return;
    if (!journal_path_.empty()) sum_ = detail::checksum(buffer_, sum_);
    put(fd_, buffer_.data(), buffer_.size());
    buffer_.clear();
  }
  void append(const std::string& line) {
    put(journal_, line.data(), line.size());
    finished_.emplace_back();
  }

  /// The checksum of a step's bytes in the file, or false when the file does not have them.
  bool checksum_of(std::uint64_t begin, std::uint64_t end, std::uint64_t& sum) {
    sum = 0;
    while (begin < end) {
      buffer_.resize(static_cast<std::size_t>(std::min<std::uint64_t>(piece, end - begin)));
      for (std::size_t have = 0; have < buffer_.size();) {
        const ::ssize_t n =
            ::pread(fd_, buffer_.data() + have, buffer_.size() - have, static_cast<::off_t>(begin + have));
        if (n < 0 && errno == EINTR) continue;
        if (n <= 0) return false;
        have += static_cast<std::size_t>(n);
      }
      sum = detail::checksum(buffer_, sum);
      begin += buffer_.size();
    }
    return true;
  }

  void take_over(const resumption& how) {
    const std::string title = core::message("nibble journal 1: ", how.fingerprint, "\n");
    std::ifstream in(journal_path_, std::ios::binary);
    const std::string old{std::istreambuf_iterator<char>(in), {}};
    std::string kept = title;
    std::string_view lines = old;
    const bool same = lines.starts_with(title);
    if (how.resume && same) {
      lines.remove_prefix(title.size());
      for (std::size_t end; (end = lines.find('\n')) != lines.npos; lines.remove_prefix(end + 1)) {
        const std::string line{lines.substr(0, end)};
        char *after = nullptr, *rest = nullptr;
        const std::uint64_t to = std::strtoull(line.c_str(), &after, 10), sum = std::strtoull(after, &rest, 10);
        std::uint64_t is = 0;
        if (*rest != ' ' || to < written_ || !checksum_of(written_, to, is) || is != sum) break;
        kept += line + "\n";
        written_ = to;
        finished_.emplace_back(rest + 1);
      }
    }
    buffer_.clear();
    if (how.say && !old.empty()) {
      if (!finished_.empty()) how.say(core::message("'", temporary_, "': ", written_, " bytes are taken over"));
      else if (!how.resume) how.say(core::message("'", temporary_, "' of an earlier run is begun anew"));
      else
        how.say(core::message("'", temporary_, "' was made ", same ? "in part only" : "from something else",
                              " and is begun anew"));
    }
    // The journal first: without it nothing of the file counts.
    journal_ = ::open(journal_path_.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_APPEND | O_CLOEXEC, 0666);
    if (journal_ < 0) refuse("keep the journal of");
    if (::ftruncate(fd_, static_cast<::off_t>(written_)) != 0 ||
        ::lseek(fd_, static_cast<::off_t>(written_), SEEK_SET) < 0)
      refuse("write");
    put(journal_, kept.data(), kept.size());
  }

  std::string who_, path_, temporary_, journal_path_;
  int fd_ = -1, journal_ = -1;
  std::uint64_t written_ = 0, sum_ = 0;
  aligned_vector<std::byte> buffer_;
  std::vector<std::string> finished_;
};

}  // namespace io
}  // namespace NIBBLE_ABI
}  // namespace nibble
