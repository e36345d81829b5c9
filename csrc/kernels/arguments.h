// A kernel's parameters: a layer and what runs of it side by side, by value.
#pragma once

#include <type_traits>

#include "element.h"
#include "params.h"
#include "tiles.h"

namespace lstm_fused {

// The directions of a layer; or, in `group`, layers of a stack in one direction: forward from below, backward from
// above.
template <class Params, int kMost = 2>
struct Arguments {
  LayerShape shape;
  int64_t units_per_block;
  Params direction[kMost];
};
template <class T>
using ForwardArguments = Arguments<ForwardParams<T, Accumulator<T>>>;
template <class T>
using BackwardArguments = Arguments<BackwardParams<T, Accumulator<T>>>;

// From what a Launcher is given.
template <class Arguments>
Arguments make_arguments(const Launch& launch, const LayerShape& shape, const void* params) {
  Arguments arguments{};
  using Params = std::remove_reference_t<decltype(arguments.direction[0])>;
  arguments.shape = shape;
  arguments.units_per_block = launch.units_per_block;
  const int64_t count = launch.num_directions * launch.num_layers;
  for (int64_t d = 0; d < count; ++d) arguments.direction[d] = static_cast<const Params*>(params)[d];
  return arguments;
}

}  // namespace lstm_fused
