#pragma once

#include <string>
#include <string_view>

namespace coppice {

/// Text as HTML and SVG have it: & < > " as entities.
std::string escape(std::string_view text);

/// A self-contained page around `body` (nothing is loaded, no script runs), light or dark as the reader has
/// it: sections, cards, tables, legends and definition lists in the style of all pages, `style` after it.
std::string page(std::string_view title, std::string_view style, std::string_view body);

}  // namespace coppice
