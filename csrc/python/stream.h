#pragma once

#include <pybind11/pybind11.h>

namespace lstm_fused {

void bind_stream(pybind11::module_& module);

}  // namespace lstm_fused
