// The steps of a stream (cpu/stream.h). W is what a weight is stored as: T, or for T = float half a float or a byte,
// widened in registers; or ByteProducts. Weights are read once for up to kTileRows rows of the batch.
//
// An element is computed in the same order whatever the number of steps, rows and threads: so are its bits.
#include "cpu/stream.h"

#include "cpu/isa/bytes.h"
#include "cpu/isa/cells.h"
#include "cpu/isa/kernels.h"
#include "cpu/isa/panels.h"

namespace lstm_fused::LSTM_FUSED_ISA {
namespace {

template <class T>
constexpr int kBlock = kNumGates * kLanes<T>;  // its sums
// Of a step: some 40 us on one core. A barrier is about 1 us, but where another program has the other core,
// milliseconds: with a load of 8 on two cores H = 256, B = 1 took 27 us on one thread and 5700 on two, at best.
template <class W>
constexpr double kFlopWorthAThread = std::is_same_v<W, ByteProducts> ? 8e6 : 2e6;

template <class T>
int64_t whole_panels(int64_t size) {
  return num_tiles(size, kPanelWidth<T>) * kPanelWidth<T>;
}

template <class T, class W>
class StreamSteps {
 public:
  StreamSteps(const Stream& stream) : s(stream) {}

  void run(int64_t seq_len, const T* x, T* y, const Parallel& parallel) const {
    for (int64_t begin = 0; begin < seq_len; begin += s.steps_at_once()) {
      const int64_t steps = min(s.steps_at_once(), seq_len - begin);
      const T* in = x + begin * s.batch * s.input_size;
      int64_t stride = s.input_size;
      for (int64_t n = 0; n < s.num_layers; ++n) {
        Layer layer{*this, s.layers[n], n, s.steps_taken + begin, in, stride, output(n % 2, 0)};
        layer.run(steps, parallel);
        in = layer.out;
        stride = width;
      }
      for (int64_t row = 0; row < steps * s.batch; ++row)
        copy(y + (begin * s.batch + row) * s.proj_width, in + row * width, s.proj_width);
    }
  }

 private:
  const Stream& s;
  const int64_t width = whole_panels<T>(s.proj_width), cells_width = whole_panels<T>(s.hidden_size);
  const int64_t num_blocks = num_tiles(s.hidden_size, kLanes<T>);
  const int64_t num_columns = num_tiles(s.proj_width, kPanelWidth<T>);  // panels of W_hr

  static constexpr bool kBytes = std::is_same_v<W, ByteProducts>;

  // Rows that weights are multiplied by: of T, or of bytes, each with a factor of its own.
  using Factor = std::conditional_t<kBytes, uint8_t, T>;
  struct Left {
    const Factor* begin;
    int64_t stride;
    const T* factors;
  };
  struct Matrix {
    const void *weights, *scale;  // scale: null where W has none
    int64_t terms;
  };

  // `count` rows, as they are multiplied; `place` is that of the first one among those in bytes.
  Left left_rows(const T* begin, int64_t stride, int64_t size, int64_t place, int64_t count) const {
    if constexpr (kBytes) {
      uint8_t* const to = s.bytes + place * s.bytes_stride;
      T* const factors = static_cast<T*>(s.factors) + place;
      for (int64_t n = 0; n < count; ++n) factors[n] = quantize(begin + n * stride, size, to + n * s.bytes_stride);
      return {to, s.bytes_stride, factors};
    } else {
      return {begin, stride, nullptr};
    }
  }

  T* output(int64_t side, int64_t row) const { return static_cast<T*>(s.outputs) + (side * s.rows() + row) * width; }
  T* gates(int64_t row, int64_t block) const {
    return static_cast<T*>(s.gates) + (row * cells_width + block * kLanes<T>)*kNumGates;
  }

  // A layer, over some steps.
  struct Layer {
    const StreamSteps& all;
    const StreamLayer& weights;
    const int64_t index, time;  // time: of its first step, since the stream began
    const T* const x;           // rows x_stride apart
    const int64_t x_stride;
    T* const out;  // (steps, B, P')
    const int64_t input_size = index > 0 ? all.s.proj_width : all.s.input_size;

    void run(int64_t steps, const Parallel& parallel) const {
      const Stream& s = all.s;
      const double flop =
          8.0 * static_cast<double>(s.batch * s.hidden_size) * static_cast<double>(s.proj_width + input_size);
      const bool alone = flop < kFlopWorthAThread<W>;
      const int64_t threads = alone ? 1 : parallel.num_threads;
      const auto each = [&](int64_t total, auto&& task) {
        const int64_t size = num_tiles(total, threads), parts = num_tiles(total, size);
        parallel(parts, [&](int64_t part) { task(Range{part * size, min(total, (part + 1) * size)}); });
      };
      const int64_t rows = steps * s.batch;
      const Left inputs = all.left_rows(x, x_stride, input_size, s.batch, rows);
      for (int64_t step = 0; step < steps; ++step) {
        const T* const h = step == 0 ? state(0) : out + (step - 1) * s.batch * all.width;
        const Left states = all.left_rows(h, all.width, s.proj_width, 0, s.batch);
        each(all.num_blocks, [&](Range blocks) {
          if (step > 0) return advance(states, step, blocks);
          // Of a single step for few rows a part of W_ih and of W_hh in turn: see goes_backwards.
          const int64_t size = blocks.end - blocks.begin;
          const int64_t part = steps == 1 && rows <= kWideRows ? wide_blocks(rows, kNumGates) : size;
          const int64_t parts = num_tiles(size, part);
          for (int64_t n = 0; n < parts; ++n) {
            const int64_t begin = blocks.begin + (goes_backwards(step) ? parts - 1 - n : n) * part;
            const Range some = {begin, min(blocks.end, begin + part)};
            project_input(inputs, rows, some);
            advance(states, step, some);
          }
        });
        if (weights.w_hr == nullptr) continue;
        const Left hiddens = all.left_rows(hidden(0), all.cells_width, s.hidden_size, 0, s.batch);
        each(all.num_columns, [&](Range panels) { project(hiddens, step, panels); });
      }
      copy(state(0), out + (steps - 1) * s.batch * all.width, s.batch * all.width);
    }

    // Every other step goes through the weights backwards, as what was read last is still in a cache; but for more
    // rows, for which panels are fetched ahead.
    bool goes_backwards(int64_t step) const { return all.s.batch <= kWideRows && (time + step) % 2 != 0; }

    T* state(int64_t b) const { return static_cast<T*>(all.s.h) + (index * all.s.batch + b) * all.width; }
    T* cells(int64_t b) const { return static_cast<T*>(all.s.c) + (index * all.s.batch + b) * all.cells_width; }
    T* hidden(int64_t b) const { return static_cast<T*>(all.s.hidden) + b * all.cells_width; }

    // Of x W_ih^T.
    void project_input(const Left& inputs, int64_t rows, Range blocks) const {
      const Matrix w_ih = {weights.w_ih, weights.scale_ih, input_size};
      for_tiles<kNumGates>(rows, blocks, INT64_MAX, /*backwards=*/false,
                           [&](int64_t first, auto R, int64_t block, auto N) {
                             tile<R.value, N.value * kNumGates>(inputs, first, w_ih, block * kPanelsPerBlock,
                                                                all.gates(first, block), all.cells_width * kNumGates);
                           });
    }

    // A step's gates and cells.
    void advance(const Left& states, int64_t step, Range blocks) const {
      const Matrix w_hh = {weights.w_hh, weights.scale_hh, all.s.proj_width};
      for_tiles<kNumGates>(
          all.s.batch, blocks, INT64_MAX, goes_backwards(step), [&](int64_t first, auto R, int64_t block, auto N) {
            alignas(kVectorBytes) T sums[R.value * N.value * kBlock<T>];
            tile<R.value, N.value * kNumGates>(states, first, w_hh, block * kPanelsPerBlock, sums, N.value * kBlock<T>);
            cells(step, first, R.value, block, N.value, sums);
          });
    }

    // h = W_hr (o tanh(c)).
    void project(const Left& hiddens, int64_t step, Range panels) const {
      const Matrix w_hr = {weights.w_hr, weights.scale_hr, all.s.hidden_size};
      for_tiles<kTileVectors>(all.s.batch, panels, INT64_MAX, /*backwards=*/false,
                              [&](int64_t first, auto R, int64_t panel, auto N) {
                                tile<R.value, N.value * kTileVectors>(
                                    hiddens, first, w_hr, panel,
                                    out + (step * all.s.batch + first) * all.width + panel * kPanelWidth<T>, all.width);
                              });
    }

    // to (R rows `stride` apart, V vectors) = rows times w's panels from `panel` on.
    template <int R, int V>
    static __attribute__((noinline)) void tile(const Left& left, int64_t first, const Matrix& w, int64_t panel, T* to,
                                               int64_t stride) {
      const Factor* rows[R];
      for (int r = 0; r < R; ++r) rows[r] = left.begin + (first + r) * left.stride;
      const Panels<W> panels = {static_cast<const W*>(w.weights),
                                panel_size<T>(kBytes ? 1 + num_tiles(w.terms, kBytesTogether) : w.terms)};
      const T* const scale = static_cast<const T*>(w.scale) + panel * kPanelWidth<T>;
      multiply_panels<R, V>(rows, w.terms, panels.from(panel), kChain, [&](int r, int v, Vec<T> sum) {
        if constexpr (kBytes || std::is_same_v<W, Int8>) sum *= load(scale + v * kLanes<T>);
        if constexpr (kBytes) sum *= left.factors[first + r];
        store(to + r * stride + v * kLanes<T>, sum);
      });
    }

    // The cells of a tile of rows and blocks; `sums` (row, block, gate, lane) are h_prev W_hh^T.
    __attribute__((noinline)) void cells(int64_t step, int64_t first, int rows, int64_t block, int blocks,
                                         const T* sums) const {
      const auto cell_at = [&](int n) -> Cell {
        const int64_t b = first + n / blocks, at = block + n % blocks;
        T* const h = weights.w_hr != nullptr ? hidden(b) : out + (step * all.s.batch + b) * all.width;
        return {all.gates(step * all.s.batch + b, at), sums + n * kBlock<T>,
                static_cast<const T*>(weights.bias) + at * kBlock<T>, cells(b) + at * kLanes<T>, h + at * kLanes<T>};
      };
      // Lanes past H have zero weights; no weight but zero meets what they leave.
      const auto open = [&](int first, auto together) __attribute__((always_inline)) {
        constexpr int N = together.value;
        using V = Vectors<T, N>;
        Cell cell[N];
        for (int n = 0; n < N; ++n) cell[n] = cell_at(first + n);
        // The bias last: it may be large, and the sum of products should not be rounded to its size at every term.
        const auto pre = [&](int gate) {
          const int at = gate * kLanes<T>;
          return V::each(
              [&](int n) { return (load(cell[n].input + at) + load(cell[n].state + at)) + load(cell[n].bias + at); });
        };
        const Gates<V> active = activate<CellMath<T, N>>(Gates<V>{pre(0), pre(1), pre(2), pre(3)});
        const V c = next_cell(active, V::each([&](int n) { return load(cell[n].c); }));
        for (int n = 0; n < N; ++n) store(cell[n].c, c.at[n]);
        return OpenCells<T, N>{active.o, c};
      };
      for_cells<T>(rows * blocks, open, [&](int first, const auto& opened) __attribute__((always_inline)) {
        constexpr int N = std::remove_cvref_t<decltype(opened)>::kCount;
        const Vectors<T, N> h = opened.hidden();
        for (int n = 0; n < N; ++n) store(cell_at(first + n).h, h.at[n]);
      });
    }

    // A vector of cells: what meets in it.
    struct Cell {
      const T *input, *state, *bias;  // (gate, lane)
      T *c, *h;
    };
  };
};

}  // namespace

template <class T>
void stream(const Stream& stream, int64_t seq_len, const void* x, void* y, const Parallel& parallel) {
  const auto run = [&](auto w) {
    using W = decltype(w);
    StreamSteps<T, W>(stream).run(seq_len, static_cast<const T*>(x), static_cast<T*>(y), parallel);
  };
  if constexpr (std::is_same_v<T, float>) {
    if (stream.weights == StreamWeights::kBFloat16) return run(BFloat16{});
    if (stream.weights == StreamWeights::kInt8) return run(Int8{});
#if defined(__AVX2__)
    if (stream.weights == StreamWeights::kByteProducts) return run(ByteProducts{});
#endif
  }
  run(T{});
}

#if !LSTM_FUSED_PAIRS
template void stream<float>(const Stream&, int64_t, const void*, void*, const Parallel&);
template void stream<double>(const Stream&, int64_t, const void*, void*, const Parallel&);
#endif

}  // namespace lstm_fused::LSTM_FUSED_ISA
