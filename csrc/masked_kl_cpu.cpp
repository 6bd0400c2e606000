// CPU kernels: AVX-512, AVX2 and portable versions of masked_kl_rows.inc in one file, chosen at run time.
#include "masked_kl.h"

#include <cmath>
#include <cstring>

#if defined(__GNUC__) && !defined(__clang__) && defined(__x86_64__)
#define SPARSEPO_X86 1
#include <immintrin.h>
#endif

namespace sparsepo {
namespace {

struct BFloat16 {
  uint16_t bits;
};

inline float to_float(float value) { return value; }

inline float to_float(BFloat16 value) {
  const uint32_t bits = static_cast<uint32_t>(value.bits) << 16;
  float result;
  std::memcpy(&result, &bits, sizeof result);
  return result;
}

template <typename T>
inline T from_float(float value);
template <>
inline float from_float<float>(float value) { return value; }
template <>
inline BFloat16 from_float<BFloat16>(float value) {
  if (value != value) return {0x7fc0};
  uint32_t bits;
  std::memcpy(&bits, &value, sizeof bits);
  return {static_cast<uint16_t>((bits + 0x7fff + ((bits >> 16) & 1)) >> 16)};
}

// exp(x) = 2^floor(t) 2^f with t = x log2(e), f in [0, 1): 2^f = 1 + f (...), relative error 8e-8, exactly 1 at 0.
constexpr float kLog2E = 1.44269504f;
constexpr float kExp2[] = {1.86713e-3f, 9.017031e-3f, 5.5799913e-2f, 2.4016444e-1f, 6.931513e-1f, 1.f};
constexpr float kExp2Floor = -126;  // below, a float is denormal

// tanh(t) is a series below, one that is as exact as float32; from there on 1 - u over 1 + u keeps its digits.
constexpr float kSeriesEnd = 0.25f;

namespace portable {

// Nothing to do without vector instructions: exp itself returns 0 there.
struct FlushToZero {
  FlushToZero() {}
};

struct Vec {
  static constexpr int kWidth = 8;
  float lane[kWidth];

  Vec() = default;
  explicit Vec(float value) {
    for (float& x : lane) x = value;
  }
  void store(float* data) const { std::memcpy(data, lane, sizeof lane); }
};

template <typename T>
inline void load(const T* data, Vec& a, Vec& b) {
  for (int i = 0; i < Vec::kWidth; ++i) a.lane[i] = to_float(data[i]), b.lane[i] = to_float(data[i + Vec::kWidth]);
}
template <typename T>
inline void store(T* data, const Vec& a, const Vec& b) {
  for (int i = 0; i < Vec::kWidth; ++i) {
    data[i] = from_float<T>(a.lane[i]);
    data[i + Vec::kWidth] = from_float<T>(b.lane[i]);
  }
}

template <typename Op>
inline Vec map(const Vec& a, const Vec& b, Op op) {
  Vec v;
  for (int i = 0; i < Vec::kWidth; ++i) v.lane[i] = op(a.lane[i], b.lane[i]);
  return v;
}
inline Vec operator+(const Vec& a, const Vec& b) { return map(a, b, [](float x, float y) { return x + y; }); }
inline Vec operator-(const Vec& a, const Vec& b) { return map(a, b, [](float x, float y) { return x - y; }); }
inline Vec operator*(const Vec& a, const Vec& b) { return map(a, b, [](float x, float y) { return x * y; }); }
inline Vec operator/(const Vec& a, const Vec& b) { return map(a, b, [](float x, float y) { return x / y; }); }
inline Vec fma(const Vec& a, const Vec& b, const Vec& c) { return a * b + c; }
inline Vec pick(const Vec& a, const Vec& b, const Vec& x, const Vec& y) {
  Vec v;
  for (int i = 0; i < Vec::kWidth; ++i) v.lane[i] = a.lane[i] < b.lane[i] ? x.lane[i] : y.lane[i];
  return v;
}
inline Vec max(const Vec& a, const Vec& b) { return map(a, b, [](float x, float y) { return x > y ? x : y; }); }
inline Vec weigh(const Vec& weight, const Vec& value) {
  return map(weight, value, [](float w, float x) { return w == 0 ? 0.f : w * x; });
}
inline Vec add_weighted(const Vec& sum, const Vec& weight, const Vec& value) { return sum + weigh(weight, value); }
inline Vec exp(const Vec& a) {
  return map(a, a, [](float x, float) { return x * kLog2E < kExp2Floor ? 0.f : std::exp(x); });
}

#include "masked_kl_rows.inc"

}  // namespace portable

#ifdef SPARSEPO_X86

// Denormal results cost a hundred times a normal one, and count nothing beside a sum that is at least 1.
struct FlushToZero {
  const unsigned before = _mm_getcsr();
  FlushToZero() { _mm_setcsr(before | 0x8040); }
  ~FlushToZero() { _mm_setcsr(before); }
};

#pragma GCC push_options
#pragma GCC target("avx2,fma")
namespace avx2 {

struct Vec {
  static constexpr int kWidth = 8;
  __m256 v;

  explicit Vec(float value) : v(_mm256_set1_ps(value)) {}
  Vec(__m256 value) : v(value) {}
  void store(float* data) const { _mm256_storeu_ps(data, v); }
};

inline void load(const float* data, Vec& a, Vec& b) {
  a.v = _mm256_loadu_ps(data);
  b.v = _mm256_loadu_ps(data + Vec::kWidth);
}
inline void store(float* data, Vec a, Vec b) {
  _mm256_storeu_ps(data, a.v);
  _mm256_storeu_ps(data + Vec::kWidth, b.v);
}
// Sixteen bfloat16 are eight words: their low halves make one vector, their high halves the other.
inline void load(const BFloat16* data, Vec& a, Vec& b) {
  const __m256i words = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(data));
  a.v = _mm256_castsi256_ps(_mm256_slli_epi32(words, 16));
  b.v = _mm256_castsi256_ps(_mm256_and_si256(words, _mm256_set1_epi32(static_cast<int>(0xffff0000u))));
}
// To nearest even, in the high half of each word; NaN stays NaN.
inline __m256i round_high(Vec x) {
  const __m256i bits = _mm256_castps_si256(x.v);
  const __m256i odd = _mm256_and_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(1));
  const __m256i rounded = _mm256_add_epi32(bits, _mm256_add_epi32(odd, _mm256_set1_epi32(0x7fff)));
  const __m256i unordered = _mm256_castps_si256(_mm256_cmp_ps(x.v, x.v, _CMP_UNORD_Q));
  return _mm256_blendv_epi8(rounded, _mm256_set1_epi32(0x7fc00000), unordered);
}
inline void store(BFloat16* data, Vec a, Vec b) {
  const __m256i words = _mm256_blend_epi16(_mm256_srli_epi32(round_high(a), 16), round_high(b), 0xaa);
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(data), words);
}

inline Vec operator+(Vec a, Vec b) { return _mm256_add_ps(a.v, b.v); }
inline Vec operator-(Vec a, Vec b) { return _mm256_sub_ps(a.v, b.v); }
inline Vec operator*(Vec a, Vec b) { return _mm256_mul_ps(a.v, b.v); }
inline Vec operator/(Vec a, Vec b) { return _mm256_div_ps(a.v, b.v); }
inline Vec fma(Vec a, Vec b, Vec c) { return _mm256_fmadd_ps(a.v, b.v, c.v); }
inline Vec pick(Vec a, Vec b, Vec x, Vec y) {
  return _mm256_blendv_ps(y.v, x.v, _mm256_cmp_ps(a.v, b.v, _CMP_LT_OQ));
}
inline Vec max(Vec a, Vec b) { return _mm256_max_ps(a.v, b.v); }
inline Vec weigh(Vec weight, Vec value) {
  const __m256 none = _mm256_cmp_ps(weight.v, _mm256_setzero_ps(), _CMP_EQ_OQ);
  return _mm256_andnot_ps(none, _mm256_mul_ps(weight.v, value.v));
}
inline Vec add_weighted(Vec sum, Vec weight, Vec value) { return sum + weigh(weight, value); }
inline Vec exp(Vec x) {
  const __m256 t = _mm256_mul_ps(x.v, _mm256_set1_ps(kLog2E));
  const __m256 n = _mm256_floor_ps(t), f = _mm256_sub_ps(t, n);
  __m256 p = _mm256_set1_ps(kExp2[0]);
  for (int i = 1; i < 6; ++i) p = _mm256_fmadd_ps(p, f, _mm256_set1_ps(kExp2[i]));
  const __m256i scale = _mm256_slli_epi32(_mm256_add_epi32(_mm256_cvtps_epi32(n), _mm256_set1_epi32(127)), 23);
  return _mm256_andnot_ps(_mm256_cmp_ps(t, _mm256_set1_ps(kExp2Floor), _CMP_LT_OQ),
                          _mm256_mul_ps(p, _mm256_castsi256_ps(scale)));
}

#include "masked_kl_rows.inc"

}  // namespace avx2
#pragma GCC pop_options

#pragma GCC push_options
#pragma GCC target("avx512f,avx512bw,avx512vl,avx512dq,avx2,fma")
namespace avx512 {

struct Vec {
  static constexpr int kWidth = 16;
  __m512 v;

  explicit Vec(float value) : v(_mm512_set1_ps(value)) {}
  Vec(__m512 value) : v(value) {}
  void store(float* data) const { _mm512_storeu_ps(data, v); }
};

inline void load(const float* data, Vec& a, Vec& b) {
  a.v = _mm512_loadu_ps(data);
  b.v = _mm512_loadu_ps(data + Vec::kWidth);
}
inline void store(float* data, Vec a, Vec b) {
  _mm512_storeu_ps(data, a.v);
  _mm512_storeu_ps(data + Vec::kWidth, b.v);
}
inline void load(const BFloat16* data, Vec& a, Vec& b) {
  const __m512i words = _mm512_loadu_si512(data);
  a.v = _mm512_castsi512_ps(_mm512_slli_epi32(words, 16));
  b.v = _mm512_castsi512_ps(_mm512_and_si512(words, _mm512_set1_epi32(static_cast<int>(0xffff0000u))));
}
inline __m512i round_high(Vec x) {
  const __m512i bits = _mm512_castps_si512(x.v);
  const __m512i odd = _mm512_and_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1));
  const __m512i rounded = _mm512_add_epi32(bits, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff)));
  return _mm512_mask_mov_epi32(rounded, _mm512_cmp_ps_mask(x.v, x.v, _CMP_UNORD_Q), _mm512_set1_epi32(0x7fc00000));
}
inline void store(BFloat16* data, Vec a, Vec b) {
  const __m512i words = _mm512_mask_blend_epi16(0xaaaaaaaa, _mm512_srli_epi32(round_high(a), 16), round_high(b));
  _mm512_storeu_si512(data, words);
}

inline Vec operator+(Vec a, Vec b) { return _mm512_add_ps(a.v, b.v); }
inline Vec operator-(Vec a, Vec b) { return _mm512_sub_ps(a.v, b.v); }
inline Vec operator*(Vec a, Vec b) { return _mm512_mul_ps(a.v, b.v); }
inline Vec operator/(Vec a, Vec b) { return _mm512_div_ps(a.v, b.v); }
inline Vec fma(Vec a, Vec b, Vec c) { return _mm512_fmadd_ps(a.v, b.v, c.v); }
inline Vec pick(Vec a, Vec b, Vec x, Vec y) {
  return _mm512_mask_blend_ps(_mm512_cmp_ps_mask(a.v, b.v, _CMP_LT_OQ), y.v, x.v);
}
inline Vec max(Vec a, Vec b) { return _mm512_max_ps(a.v, b.v); }
inline Vec weigh(Vec weight, Vec value) {
  return _mm512_maskz_mul_ps(_mm512_cmp_ps_mask(weight.v, _mm512_setzero_ps(), _CMP_NEQ_UQ), weight.v, value.v);
}
inline Vec add_weighted(Vec sum, Vec weight, Vec value) {
  const __mmask16 some = _mm512_cmp_ps_mask(weight.v, _mm512_setzero_ps(), _CMP_NEQ_UQ);
  return _mm512_mask3_fmadd_ps(weight.v, value.v, sum.v, some);
}
inline Vec exp(Vec x) {
  const __m512 t = _mm512_mul_ps(x.v, _mm512_set1_ps(kLog2E));
  const __m512 f = _mm512_reduce_ps(t, _MM_FROUND_TO_NEG_INF | _MM_FROUND_NO_EXC);
  __m512 p = _mm512_set1_ps(kExp2[0]);
  for (int i = 1; i < 6; ++i) p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(kExp2[i]));
  return _mm512_scalef_ps(p, t);
}

#include "masked_kl_rows.inc"

}  // namespace avx512
#pragma GCC pop_options

#endif  // SPARSEPO_X86

constexpr Kernels kPortable{"portable", portable::forward, portable::backward};
#ifdef SPARSEPO_X86
constexpr Kernels kAvx2{"avx2", avx2::forward, avx2::backward};
constexpr Kernels kAvx512{"avx512", avx512::forward, avx512::backward};
#endif

}  // namespace

const Kernels* select_kernels(const char* wanted) {
  const auto asked = [wanted](const char* name) { return wanted == nullptr || std::strcmp(wanted, name) == 0; };
#ifdef SPARSEPO_X86
  const bool has_avx512 = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                          __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq");
  if (asked("avx512") && has_avx512) return &kAvx512;
  if (asked("avx2") && __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) return &kAvx2;
#endif
  return asked("portable") ? &kPortable : nullptr;
}

}  // namespace sparsepo
