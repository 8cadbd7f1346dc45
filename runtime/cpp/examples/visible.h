// What files say, as a terminal may be shown it.
#pragma once

#include <string>

// Text with what a terminal obeys written as escapes: control characters, escape sequences, marks
// that turn the direction of text. They come from names in files.
std::string visible(const std::string& text);
