#include "tools/coppice/progress.hpp"

#include <fmt/format.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <string>

#include "engine/report/table.hpp"

namespace coppice::program {
namespace {

/// "loss 4.5123 (perplexity 91.1)", the way the unit is read.
std::string loss_text(double loss, std::string_view unit) {
  if (unit == "words") return fmt::format("{:.4f} (perplexity {:.2f})", loss, std::exp(loss));
  if (unit == "characters") return fmt::format("{:.4f} ({:.4f} bits/char)", loss, loss / std::log(2.0));
  return fmt::format("{:.4f}", loss);
}

std::string stage_text(const Progress& p) {
  if (p.epochs <= 1 && p.rate == 0.0) return std::string(p.stage);
  return fmt::format("{} epoch {}/{}", p.stage, p.epoch + 1, p.epochs);
}

std::string figures(const Progress& p) {
  std::string text;
  if (std::isfinite(p.loss)) text += "  loss " + loss_text(p.loss, p.unit);
  if (p.sparsity >= 0) text += fmt::format("  {:.1f} % cut", 100 * p.sparsity);
  if (p.units_per_second > 0) text += fmt::format("  {} {}/s", count_text(p.units_per_second), p.unit);
  return text;
}

std::string epoch_line(const Progress& p) {
  std::string text = stage_text(p);
  if (std::isfinite(p.loss)) text += fmt::format("  loss {:.4f}", p.loss);
  if (std::isfinite(p.valid_loss)) text += "  validation " + loss_text(p.valid_loss, p.unit);
  if (p.sparsity >= 0) text += fmt::format("  {:.1f} % cut", 100 * p.sparsity);
  if (p.units_per_second > 0) text += fmt::format("  {} {}/s", count_text(p.units_per_second), p.unit);
  return text;
}

class TerminalBar final : public ProgressListener {
 public:
  ~TerminalBar() override { clear(); }

  void stage_begins(std::string_view stage) override { draw(fmt::format("{} …", stage)); }

  void progress(const Progress& p) override {
    const double part = p.batches > 0 ? static_cast<double>(p.batch) / static_cast<double>(p.batches) : 0.0;
    constexpr int kCells = 24;
    const int full = static_cast<int>(std::clamp(part, 0.0, 1.0) * kCells);
    std::string bar(static_cast<size_t>(full), '=');
    if (full < kCells) bar += '>';
    std::string left;
    if (std::isfinite(p.seconds_left)) left = fmt::format("  {} left", seconds_text(p.seconds_left));
    draw(fmt::format("{} [{:<{}}] {}/{}{}{}", stage_text(p), bar, kCells, p.batch, p.batches, figures(p),
                     left));
  }

  void epoch_ends(const Progress& p) override { line(epoch_line(p)); }
  void stage_ends(std::string_view stage, double seconds) override {
    if (seconds >= 1.0) line(fmt::format("{} done in {}", stage, seconds_text(seconds)));
  }

 private:
  void draw(const std::string& text) {
    winsize size{};
    const size_t columns =
        ioctl(STDERR_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_col > 8 ? size.ws_col - 1u : 79u;
    // Cut at a character's first byte, or the terminal shows half of one.
    size_t end = std::min(text.size(), columns);
    while (end < text.size() && end > 0 && (static_cast<unsigned char>(text[end]) & 0xc0) == 0x80) --end;
    fmt::print(stderr, "\r\033[K{}", std::string_view(text).substr(0, end));
    std::fflush(stderr);
    drawn_ = true;
  }
  void line(const std::string& text) {
    clear();
    fmt::print(stderr, "{}\n", text);
  }
  void clear() {
    if (drawn_) fmt::print(stderr, "\r\033[K");
    std::fflush(stderr);
    drawn_ = false;
  }
  bool drawn_ = false;
};

class PlainLines final : public ProgressListener {
 public:
  void stage_begins(std::string_view stage) override {
    line(fmt::format("{} ...", stage));
    spoke_ = Clock::now();
  }

  void progress(const Progress& p) override {
    if (Clock::now() - spoke_ < std::chrono::seconds(10)) return;
    spoke_ = Clock::now();
    std::string left;
    if (std::isfinite(p.seconds_left)) left = fmt::format("  {} left", seconds_text(p.seconds_left));
    line(fmt::format("{} batch {}/{}{}{}", stage_text(p), p.batch, p.batches, figures(p), left));
  }

  void epoch_ends(const Progress& p) override {
    line(epoch_line(p));
    spoke_ = Clock::now();
  }
  void stage_ends(std::string_view stage, double seconds) override {
    if (seconds >= 1.0) line(fmt::format("{} done in {}", stage, seconds_text(seconds)));
  }

 private:
  using Clock = std::chrono::steady_clock;
  static void line(const std::string& text) { fmt::print(stderr, "{}\n", text); }
  Clock::time_point spoke_ = Clock::now();
};

}  // namespace

std::unique_ptr<ProgressListener> make_progress() {
  if (isatty(STDERR_FILENO) == 1) return std::make_unique<TerminalBar>();
  return std::make_unique<PlainLines>();
}

}  // namespace coppice::program
