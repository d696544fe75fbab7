// Philox4x32-10 and the thresholds made from it. Included by engine.cpp only, inside the namespace of its instruction
// set.
#pragma once

constexpr int kPhiloxLanes = 16;

// Four words for each of 16 counters (c0, 0, c2, c3). Plain loops: every compiler turns them into 32 x 32 -> 64
// products.
inline void philox(const uint32_t* c0_in, const uint32_t* c2_in, const uint32_t* c3_in, uint64_t seed,
                   uint32_t words[4][kPhiloxLanes]) {
  uint32_t c0[kPhiloxLanes], c1[kPhiloxLanes], c2[kPhiloxLanes], c3[kPhiloxLanes];
  for (int i = 0; i < kPhiloxLanes; ++i) {
    c0[i] = c0_in[i];
    c1[i] = 0;
    c2[i] = c2_in[i];
    c3[i] = c3_in[i];
  }
  uint32_t k0 = static_cast<uint32_t>(seed), k1 = static_cast<uint32_t>(seed >> 32);
  for (int round = 0; round < 10; ++round) {
    for (int i = 0; i < kPhiloxLanes; ++i) {
      const uint64_t p0 = static_cast<uint64_t>(0xD2511F53u) * c0[i];
      const uint64_t p1 = static_cast<uint64_t>(0xCD9E8D57u) * c2[i];
      const uint32_t n0 = static_cast<uint32_t>(p1 >> 32) ^ c1[i] ^ k0;
      const uint32_t n2 = static_cast<uint32_t>(p0 >> 32) ^ c3[i] ^ k1;
      c1[i] = static_cast<uint32_t>(p1);
      c3[i] = static_cast<uint32_t>(p0);
      c0[i] = n0;
      c2[i] = n2;
    }
    k0 += 0x9E3779B9u;
    k1 += 0xBB67AE85u;
  }
  for (int i = 0; i < kPhiloxLanes; ++i) {
    words[0][i] = c0[i];
    words[1][i] = c1[i];
    words[2][i] = c2[i];
    words[3][i] = c3[i];
  }
}

// logit(u) for the uniform of each word: u < sigmoid(l) iff l > logit(u), and the right side can be had before l is
// known.
template <class T>
__attribute__((noinline)) void thresholds(const uint32_t* words, T* out) {
  alignas(kAlign) T u[kPhiloxLanes];
  for (int i = 0; i < kPhiloxLanes; ++i) u[i] = static_cast<T>(static_cast<int32_t>(words[i] >> 8)) * T(0x1p-24);
  for (int i = 0; i < kPhiloxLanes; i += kLanes<T>) {
    const Vec<T> v = load<T>(u + i);
    const Vec<T> odds = v / (T(1) - v);
    store<T>(out + i, v > T(0) ? log_<T>(odds) : splat<T>(-__builtin_inff()));
  }
}
