// Runs a model packaged by AOTInductor, LSTMs of this library inside, in a program without Python:
//     run_packaged MODEL.pt2 LIBLSTM_FUSED.SO T B I < input > output
// Input (T, B, I) and each result are float32 in row-major order, as numpy's tofile writes them. docs/pytorch.md says
// how to make the package and how to compile this file.
#include <ATen/ops/from_blob.h>
#include <dlfcn.h>
#include <torch/csrc/inductor/aoti_package/model_package_loader.h>

#include <cstdio>
#include <cstdlib>
#include <exception>
#include <vector>

namespace {

[[noreturn]] void fail(const char* message) {
  std::fprintf(stderr, "run_packaged: %s\n", message);
  std::exit(1);
}

}  // namespace

int main(int argc, char** argv) try {
  if (argc != 6) fail("expected MODEL.pt2 LIBLSTM_FUSED.SO T B I");
  // Loading the op library registers torch.ops.lstm_fused; the package asks for them by name.
  if (dlopen(argv[2], RTLD_NOW) == nullptr) fail(dlerror());

  const std::vector<int64_t> sizes{std::atoll(argv[3]), std::atoll(argv[4]), std::atoll(argv[5])};
  std::vector<float> data(sizes[0] * sizes[1] * sizes[2]);
  if (std::fread(data.data(), sizeof(float), data.size(), stdin) != data.size()) fail("the input is too short");

  torch::inductor::AOTIModelPackageLoader model(argv[1]);
  for (const at::Tensor& result : model.run({at::from_blob(data.data(), sizes)})) {
    const at::Tensor dense = result.contiguous();
    std::fwrite(dense.const_data_ptr<float>(), sizeof(float), dense.numel(), stdout);
  }
} catch (const std::exception& error) {
  fail(error.what());
}
