// Numbers as people read them.
#pragma once

#include <cstdint>
#include <string>

namespace lstm_fused {

std::string bytes_text(int64_t bytes);            // "160.0 KiB"
std::string us_text(double us);                   // "0.73 us"
std::string capability_text(int64_t capability);  // 90: "9.0"

}  // namespace lstm_fused
