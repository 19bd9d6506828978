#include "engine/data/sequence_files.hpp"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <utility>

#include "engine/files/input_file.hpp"
#include "engine/files/weight_file.hpp"
#include "kernels/error.hpp"

namespace coppice {
namespace {

bool ends_with(std::string_view text, std::string_view end) {
  return text.size() >= end.size() && text.substr(text.size() - end.size()) == end;
}

std::string_view trimmed(std::string_view text) {
  const auto space = [](char c) { return c == ' ' || c == '\t' || c == '\r'; };
  while (!text.empty() && space(text.front())) text.remove_prefix(1);
  while (!text.empty() && space(text.back())) text.remove_suffix(1);
  return text;
}

/// Takes what stands before the next `separator` off the front of `text`; all of it when there is none.
std::string_view take_field(std::string_view& text, char separator) {
  const size_t end = text.find(separator);
  const std::string_view field = text.substr(0, end);
  text.remove_prefix(end == text.npos ? text.size() : end + 1);
  return field;
}

std::optional<double> parse_number(std::string_view text) {
  if (!text.empty() && text.front() == '+') text.remove_prefix(1);
  double value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc{} || end != text.data() + text.size()) return std::nullopt;
  return value;
}

std::string lowercase(std::string_view text) {
  std::string lower(text);
  for (char& c : lower) c = c >= 'A' && c <= 'Z' ? static_cast<char>(c + 32) : c;
  return lower;
}

/// Numbers the labels of `names` (one a sequence) in sorted order, together with those declared.
void number_labels(LabelledSequences& sequences, const std::vector<std::string>& names,
                   std::vector<std::string> declared) {
  std::vector<std::string> all = std::move(declared);
  const std::set<std::string> occurring(names.begin(), names.end());
  all.insert(all.end(), occurring.begin(), occurring.end());
  sequences.label_names = sorted_labels(std::move(all));
  std::map<std::string, int32_t> numbers;
  for (size_t i = 0; i < sequences.label_names.size(); ++i) {
    numbers[sequences.label_names[i]] = static_cast<int32_t>(i);
  }
  for (const std::string& name : names) sequences.data.labels.push_back(numbers.at(name));
}

/// A .ts file line by line.
class TsReader {
 public:
  explicit TsReader(const std::string& path) : path_(path) { sequences_.origin = path; }

  LabelledSequences read() {
    const std::string text = read_file(path_);
    if (text.empty()) bad_input("{}: is empty, expected a .ts file", path_);
    const size_t nul = text.find('\0');
    if (nul != text.npos) bad_input("{}: byte {} is NUL, so this is not a .ts file", path_, nul);
    std::string_view rest = text;
    bool in_data = false;
    while (!rest.empty()) {
      ++line_;
      const std::string_view line = trimmed(take_field(rest, '\n'));
      if (line.empty() || line.front() == '#') continue;
      if (in_data) {
        read_sequence(line);
      } else if (line.front() == '@') {
        in_data = read_header(line);
      } else {
        refuse("expected a header line that starts with '@', or @data");
      }
    }
    if (!in_data) bad_input("{}: has no @data line", path_);
    if (names_.empty()) bad_input("{}: has no sequence behind @data", path_);
    sequences_.data.offsets.insert(sequences_.data.offsets.begin(), 0);
    number_labels(sequences_, names_, {declared_.begin(), declared_.end()});
    return std::move(sequences_);
  }

 private:
  [[noreturn]] void refuse(const std::string& message) const {
    bad_input("{}:{}: {}", path_, line_, message);
  }

  /// True for @data.
  bool read_header(std::string_view line) {
    std::string_view rest = line;
    const std::string key = lowercase(trimmed(take_field(rest, ' ')));
    rest = trimmed(rest);
    const std::string value = lowercase(rest);
    if (key == "@data") {
      if (!labelled_) refuse("@data without \"@classLabel true …\" before it: sequences need labels");
      return true;
    }
    if (key == "@timestamps" && value != "false")
      refuse("@timeStamps is " + value + "; only false is supported");
    if (key == "@missing" && value != "false")
      refuse("@missing is " + value + "; missing values are not supported");
    if (key == "@targetlabel" && value != "false")
      refuse("@targetLabel: this is a regression set, not classes");
    if (key == "@dimensions" || key == "@dimension") {
      const std::optional<double> number = parse_number(value);
      if (!number || *number < 1 || *number > 1e6 || *number != std::floor(*number)) {
        refuse("@dimensions is \"" + std::string(rest) + "\", expected a whole number from 1");
      }
      set_dimensions(static_cast<int64_t>(*number));
    }
    if (key == "@univariate" && value == "true") set_dimensions(1);
    if (key == "@equallength") equal_length_ = value == "true";
    if (key == "@classlabel") {
      if (lowercase(take_field(rest, ' ')) != "true")
        refuse("@classLabel is not true: sequences need labels");
      while (!rest.empty()) {
        const std::string_view label = trimmed(take_field(rest, ' '));
        if (!label.empty() && !declared_.insert(std::string(label)).second) {
          refuse(fmt::format("@classLabel names \"{}\" twice", label));
        }
      }
      labelled_ = true;
    }
    return false;
  }

  void set_dimensions(int64_t dimensions) {
    int64_t& inputs = sequences_.data.inputs;
    if (inputs != 0 && inputs != dimensions) {
      refuse(fmt::format("{} dimensions, but {} before", dimensions, inputs));
    }
    inputs = dimensions;
  }

  void read_sequence(std::string_view line) {
    std::vector<std::string_view> fields;
    std::string_view rest = line;
    for (;;) {
      const bool last = rest.find(':') == rest.npos;
      fields.push_back(trimmed(take_field(rest, ':')));
      if (last) break;
    }
    const int64_t dimensions = static_cast<int64_t>(fields.size()) - 1;
    if (dimensions < 1) refuse("expected dimensions separated by ':' and the label last");
    set_dimensions(dimensions);
    int64_t length = 0;
    std::vector<std::vector<float>> columns;
    for (int64_t d = 0; d < dimensions; ++d) {
      columns.push_back(read_values(fields[static_cast<size_t>(d)], d));
      const int64_t values = static_cast<int64_t>(columns.back().size());
      if (d == 0) length = values;
      if (values != length) {
        refuse(fmt::format("dimension {} has {} values, but dimension 1 has {}", d + 1, values, length));
      }
    }
    // While lines are read, offsets holds only where sequences end: the first is the first one's length.
    if (equal_length_ && !sequences_.data.offsets.empty() && length != sequences_.data.offsets.front()) {
      refuse(fmt::format("{} steps, but @equalLength is true and the first sequence has {}", length,
                         sequences_.data.offsets.front()));
    }
    const std::string label(fields.back());
    if (label.empty()) refuse("the label is empty");
    if (!declared_.empty() && declared_.count(label) == 0) {
      refuse(fmt::format("the label \"{}\" is not among the {} that @classLabel names", label,
                         declared_.size()));
    }
    for (int64_t t = 0; t < length; ++t) {
      for (const std::vector<float>& column : columns) {
        sequences_.data.features.push_back(column[static_cast<size_t>(t)]);
      }
    }
    std::vector<int64_t>& ends = sequences_.data.offsets;
    ends.push_back((ends.empty() ? 0 : ends.back()) + length);
    sequences_.lines.push_back(line_);
    names_.push_back(label);
  }

  std::vector<float> read_values(std::string_view field, int64_t dimension) const {
    if (field.empty()) refuse(fmt::format("dimension {} is empty: a sequence of length 0", dimension + 1));
    std::vector<float> values;
    std::string_view rest = field;
    for (;;) {
      const bool last = rest.find(',') == rest.npos;
      const std::string_view text = trimmed(take_field(rest, ','));
      const std::optional<double> number = parse_number(text);
      if (!number || !std::isfinite(static_cast<float>(*number))) {
        refuse(fmt::format("value {} of dimension {} is \"{}\", expected a number", values.size() + 1,
                           dimension + 1, text));
      }
      values.push_back(static_cast<float>(*number));
      if (last) return values;
    }
  }

  std::string path_;
  int64_t line_ = 0;
  bool labelled_ = false;
  bool equal_length_ = false;
  std::set<std::string> declared_;
  std::vector<std::string> names_;
  LabelledSequences sequences_;
};

std::string array_name(const char* name, const std::string& part) {
  return part.empty() ? name : fmt::format("{}_{}", name, part);
}

std::string shape_text(const std::vector<int64_t>& shape) {
  std::string text;
  for (int64_t d : shape) text += fmt::format("{}{}", text.empty() ? "" : ", ", d);
  return "[" + text + "]";
}

/// N whole numbers: labels or lengths.
std::vector<int64_t> read_whole_numbers(const WeightFile& file, const std::string& name, int64_t count) {
  const FileTensor& info = file.tensor(name);
  const bool flat = info.shape.size() == 1 || (info.shape.size() == 2 && info.shape[1] == 1);
  if (!flat || info.size() != count) {
    bad_input("{}: array \"{}\" has shape {}, expected [{}], one number a sequence", file.path(), name,
              shape_text(info.shape), count);
  }
  std::vector<int64_t> numbers;
  const std::vector<double> values = file.read_f64(name);
  for (size_t i = 0; i < values.size(); ++i) {
    if (!(std::abs(values[i]) < 0x1p53) || values[i] != std::floor(values[i])) {
      bad_input("{}: array \"{}\": element {} is {}, expected a whole number", file.path(), name, i,
                values[i]);
    }
    numbers.push_back(static_cast<int64_t>(values[i]));
  }
  return numbers;
}

}  // namespace

std::vector<std::string> sorted_labels(std::vector<std::string> labels) {
  bool numeric = true;
  for (const std::string& label : labels) numeric = numeric && parse_number(label).has_value();
  std::sort(labels.begin(), labels.end(), [&](const std::string& a, const std::string& b) {
    if (!numeric) return a < b;
    const double left = *parse_number(a), right = *parse_number(b);
    return left != right ? left < right : a < b;
  });
  labels.erase(std::unique(labels.begin(), labels.end()), labels.end());
  return labels;
}

bool is_npz(const std::string& path) {
  return ends_with(path, ".npz");
}

LabelledSequences read_ts(const std::string& path) {
  return TsReader(path).read();
}

bool npz_has_part(const std::string& path, const std::string& part) {
  return open_weights(path)->contains(array_name("x", part));
}

LabelledSequences read_npz(const std::string& path, const std::string& part) {
  const std::unique_ptr<WeightFile> file = open_weights(path);
  const std::string x_name = array_name("x", part), y_name = array_name("y", part),
                    lengths_name = array_name("lengths", part);
  for (const std::string& name : {x_name, y_name}) {
    if (!file->contains(name)) bad_input("{}: has no array \"{}\"", path, name);
  }
  const FileTensor& x = file->tensor(x_name);
  if (x.shape.size() != 3) {
    bad_input("{}: array \"{}\" has shape {}, expected [sequences, steps, inputs]", path, x_name,
              shape_text(x.shape));
  }
  const int64_t count = x.shape[0], steps = x.shape[1], inputs = x.shape[2];
  if (count == 0 || steps == 0 || inputs == 0) {
    bad_input("{}: array \"{}\" has shape {}: nothing to read", path, x_name, shape_text(x.shape));
  }
  LabelledSequences sequences;
  sequences.origin = fmt::format("{}: array \"{}\"", path, y_name);
  sequences.data.inputs = inputs;
  std::vector<std::string> names;
  for (int64_t label : read_whole_numbers(*file, y_name, count)) names.push_back(std::to_string(label));
  number_labels(sequences, names, {});

  std::vector<int64_t> lengths(static_cast<size_t>(count), steps);
  if (file->contains(lengths_name)) lengths = read_whole_numbers(*file, lengths_name, count);
  sequences.data.offsets.push_back(0);
  for (int64_t n = 0; n < count; ++n) {
    const int64_t length = lengths[static_cast<size_t>(n)];
    if (length < 1 || length > steps) {
      bad_input("{}: array \"{}\": element {} is {}, expected 1 to {}", path, lengths_name, n, length, steps);
    }
    sequences.data.offsets.push_back(sequences.data.offsets.back() + length);
  }
  const size_t index = file->index(x_name);
  std::vector<float> padded(static_cast<size_t>(steps * inputs));
  for (int64_t n = 0; n < count; ++n) {
    file->read_f32(index, n * steps * inputs, steps * inputs, padded.data());
    const auto end = padded.begin() + lengths[static_cast<size_t>(n)] * inputs;
    const auto odd = std::find_if(padded.begin(), end, [](float value) { return !std::isfinite(value); });
    if (odd != end) {
      bad_input("{}: array \"{}\": element {} of sequence {} is {}, expected a finite number", path, x_name,
                odd - padded.begin(), n, *odd);
    }
    sequences.data.features.insert(sequences.data.features.end(), padded.begin(), end);
  }
  return sequences;
}

}  // namespace coppice
