// Runs the kernels without Python, where sanitizers and emulators can see them.
//
// driver INPUT OUTPUT: INPUT holds int32 shards, images and threads, then the weights, pixels and
// labels; OUTPUT gets the rows, the sum of eight times the rows, the logits, and pixels
// distorted: of images that are the weights' bytes. Two calls run at once and must agree.
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <memory>
#include <thread>
#include <vector>

extern "C" {
long lenet5_scratch_bytes(int);
int lenet5_gradients(const float*, const float*, const int64_t*, int, int, float, float, float,
                     float, float*, int, void*);
void lenet5_logits(const float*, const float*, int, float, float, float*, int, void*);
void distort(const uint8_t*, const int64_t*, int, uint64_t, double, double, double, double, double,
             double, float*, int);
void tree_sum(const float*, int, long, float*, int);
}

constexpr int PARAMETERS = 61706, WIDTH = PARAMETERS + 2;

struct Input {
    int32_t shards, images, threads;
    std::vector<float> weights, pixels;
    std::vector<int64_t> labels;
};

template <class T>
std::vector<T> read(std::ifstream& from, long count) {
    std::vector<T> values(count);
    if (!from.read(reinterpret_cast<char*>(values.data()), count * sizeof(T))) exit(3);
    return values;
}

std::vector<float> computed(const Input& in) {
    int images = in.shards * in.images;
    std::unique_ptr<void, void (*)(void*)> scratch(
        aligned_alloc(64, (lenet5_scratch_bytes(in.threads) + 63) / 64 * 64), free);
    memset(scratch.get(), 0, lenet5_scratch_bytes(in.threads));
    // Each in memory of its own, so that a place beyond its end is nobody's.
    std::vector<float> rows(in.shards * WIDTH), sum(WIDTH), logits(images * 10);
    if (!lenet5_gradients(in.weights.data(), in.pixels.data(), in.labels.data(), in.shards,
                          in.images, 0.1307f, 0.3081f, 0.1f, images, rows.data(), in.threads,
                          scratch.get()))
        exit(4);
    std::vector<float> many;  // as many as are worth several threads
    for (int i = 0; i < 8; i++) many.insert(many.end(), rows.begin(), rows.end());
    tree_sum(many.data(), 8 * in.shards, WIDTH, sum.data(), in.threads);
    lenet5_logits(in.weights.data(), in.pixels.data(), images, 0.1307f, 0.3081f, logits.data(),
                  in.threads, scratch.get());
    std::vector<float> pixels(images * 784L);
    std::vector<uint8_t> bytes(images * 784L);
    memcpy(bytes.data(), in.weights.data(), bytes.size());
    distort(bytes.data(), in.labels.data(), images, 12345, 0.9, 0.2, 0.1, 0.1, 0.1, 0.05,
            pixels.data(), in.threads);
    for (auto& more : {sum, logits, pixels}) rows.insert(rows.end(), more.begin(), more.end());
    return rows;
}

int main(int, char** arguments) {
    std::ifstream from(arguments[1], std::ios::binary);
    auto head = read<int32_t>(from, 3);
    Input in = {head[0], head[1], head[2], {}, {}, {}};
    in.weights = read<float>(from, PARAMETERS);
    in.pixels = read<float>(from, in.shards * in.images * 784L);
    in.labels = read<int64_t>(from, in.shards * in.images);
    std::vector<float> found, beside;
    std::thread other([&] { beside = computed(in); });
    found = computed(in);
    other.join();
    if (memcmp(found.data(), beside.data(), found.size() * sizeof(float))) return 5;
    std::ofstream to(arguments[2], std::ios::binary);
    to.write(reinterpret_cast<const char*>(found.data()), found.size() * sizeof(float));
    return to.flush() ? 0 : 6;
}
