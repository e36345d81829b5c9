// Runs a model, LSTMs of this library inside, in a program without Python: one packaged by AOTInductor (.pt2), or else
// one saved by torch.jit:
//     run_packaged MODEL LIBLSTM_FUSED.SO T B I < input > output
// Input (T, B, I) and each result are float32 in row-major order, as numpy's tofile writes them. docs/pytorch.md says
// how to make either file and how to compile this one.
#include <ATen/ops/from_blob.h>
#include <dlfcn.h>
#include <torch/csrc/inductor/aoti_package/model_package_loader.h>
#include <torch/csrc/jit/api/module.h>
#include <torch/csrc/jit/serialization/import.h>

#include <cstdio>
#include <cstdlib>
#include <exception>
#include <string>
#include <vector>

namespace {

[[noreturn]] void fail(const char* message) {
  std::fprintf(stderr, "run_packaged: %s\n", message);
  std::exit(1);
}

// The tensors of a result such as (output, (h_n, c_n)).
void collect(const c10::IValue& value, std::vector<at::Tensor>& tensors) {
  if (value.isTensor()) return tensors.push_back(value.toTensor());
  for (const c10::IValue& element : value.toTupleRef().elements()) collect(element, tensors);
}

std::vector<at::Tensor> run(const std::string& path, const at::Tensor& input) {
  if (path.ends_with(".pt2")) return torch::inductor::AOTIModelPackageLoader(path).run({input});
  std::vector<at::Tensor> results;
  collect(torch::jit::load(path).forward({input}), results);
  return results;
}

}  // namespace

int main(int argc, char** argv) try {
  if (argc != 6) fail("expected MODEL LIBLSTM_FUSED.SO T B I");
  // Loading the op library registers torch.ops.lstm_fused; the model asks for them by name.
  if (dlopen(argv[2], RTLD_NOW) == nullptr) fail(dlerror());

  const std::vector<int64_t> sizes{std::atoll(argv[3]), std::atoll(argv[4]), std::atoll(argv[5])};
  std::vector<float> data(sizes[0] * sizes[1] * sizes[2]);
  if (std::fread(data.data(), sizeof(float), data.size(), stdin) != data.size()) fail("the input is too short");

  for (const at::Tensor& result : run(argv[1], at::from_blob(data.data(), sizes))) {
    const at::Tensor dense = result.contiguous();
    std::fwrite(dense.const_data_ptr<float>(), sizeof(float), dense.numel(), stdout);
  }
} catch (const std::exception& error) {
  fail(error.what());
}
