#include "engine/report/page.hpp"

#include <fmt/format.h>

namespace coppice {
namespace {

constexpr std::string_view kStyle = R"css(
:root { --ink:#1c2430; --soft:#5d6b7e; --line:#e1e6ed; --page:#f5f7fa; --card:#fff; --dense:#3b6fd4; --retrained:#1f9d6b;
  --continued:#98a2b3; --cut:#d9623b; --kept:#1f9d6b; --track:#e9edf2; }
@media (prefers-color-scheme: dark) { :root { --ink:#e6ebf2; --soft:#98a5b8; --line:#2b3442; --page:#12161d; --card:#1a202a;
  --dense:#6d9bf1; --retrained:#4cc790; --continued:#8a95a8; --cut:#ee8a63; --kept:#4cc790; --track:#2b3442; } }
* { box-sizing:border-box; }
body { margin:0; background:var(--page); color:var(--ink); font:15px/1.5 system-ui,-apple-system,"Segoe UI",Roboto,"DejaVu Sans",sans-serif; }
main { max-width:1020px; margin:0 auto; padding:36px 24px 56px; }
h1 { font-size:26px; margin:0; letter-spacing:-.01em; }
h2 { font-size:17px; margin:0 0 14px; }
p { margin:4px 0; } .soft { color:var(--soft); }
section { background:var(--card); border:1px solid var(--line); border-radius:12px; padding:22px 24px; margin-top:20px; }
.cards { display:grid; grid-template-columns:repeat(auto-fit,minmax(210px,1fr)); gap:16px; margin-top:24px; }
.card { background:var(--card); border:1px solid var(--line); border-radius:12px; padding:16px 20px; }
.card b { display:block; font-size:28px; font-weight:650; letter-spacing:-.02em; line-height:1.25; }
.card i { font-style:normal; color:var(--soft); font-size:13px; }
table { border-collapse:collapse; width:100%; font-variant-numeric:tabular-nums; }
th { text-align:right; font-weight:600; color:var(--soft); font-size:13px; padding:6px 10px; border-bottom:1px solid var(--line); }
td { text-align:right; padding:7px 10px; border-bottom:1px solid var(--line); white-space:nowrap; }
tr:last-child td { border-bottom:0; }
th:first-child, td:first-child { text-align:left; padding-left:0; } th:last-child, td:last-child { padding-right:0; }
svg { display:block; width:100%; height:auto; } svg text { fill:var(--soft); font-size:12px; font-family:inherit; }
.legend { display:flex; flex-wrap:wrap; gap:6px 20px; margin:0 0 10px; color:var(--soft); font-size:13px; }
.legend span::before { content:""; display:inline-block; width:18px; height:0; border-top:3px solid var(--c); vertical-align:middle; margin-right:7px; }
.legend span.thin::before { border-top:2px dashed var(--c); }
.tensor { display:grid; grid-template-columns:minmax(170px,1fr) 3fr; gap:6px 18px; align-items:center; padding:10px 0; border-bottom:1px solid var(--line); }
.tensor:last-child { border-bottom:0; } .tensor code { font-size:13px; }
.bar { position:relative; height:18px; border-radius:5px; background:var(--track); overflow:hidden; }
.bar div { position:absolute; inset:0 auto 0 0; background:var(--cut); opacity:.88; }
.bar em { position:absolute; inset:0 8px; font-size:11.5px; font-weight:600; line-height:18px; font-style:normal; color:var(--ink); text-align:right; }
.bar em.in { text-align:left; color:#fff; }
.gates { display:grid; grid-auto-flow:column; grid-auto-columns:1fr; gap:10px; margin-top:7px; }
.gates .bar { height:7px; border-radius:3px; } .gates small { color:var(--soft); font-size:11.5px; }
dl { display:grid; grid-template-columns:max-content 1fr; gap:4px 22px; margin:0; } dt { color:var(--soft); } dd { margin:0; overflow-wrap:anywhere; }
code { font-family:ui-monospace,"SF Mono",Menlo,"DejaVu Sans Mono",monospace; font-size:13px; }
ul { margin:0; padding-left:18px; }
)css";

}  // namespace

std::string escape(std::string_view text) {
  std::string out;
  for (const char c : text) {
    switch (c) {
      case '&':
        out += "&amp;";
        break;
      case '<':
        out += "&lt;";
        break;
      case '>':
        out += "&gt;";
        break;
      case '"':
        out += "&quot;";
        break;
      default:
        out += c;
    }
  }
  return out;
}

std::string page(std::string_view title, std::string_view style, std::string_view body) {
  return fmt::format(
      "<!doctype html>\n<html lang=\"en\">\n<head><meta charset=\"utf-8\">"
      "<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">"
      "<title>{} &middot; "
      "Coppice</title>\n<style>{}{}</style></head>\n<body><main>\n{}</main></body>\n</html>\n",
      escape(title), kStyle, style, body);
}

}  // namespace coppice
