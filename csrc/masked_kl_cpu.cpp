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

inline BFloat16 round_to_bfloat16(float value) {
  if (value != value) return {0x7fc0};
  uint32_t bits;
  std::memcpy(&bits, &value, sizeof bits);
  return {static_cast<uint16_t>((bits + 0x7fff + ((bits >> 16) & 1)) >> 16)};
}

template <typename T>
inline T from_float(float value);
template <>
inline float from_float<float>(float value) { return value; }
template <>
inline BFloat16 from_float<BFloat16>(float value) { return round_to_bfloat16(value); }

// exp(r) on [-ln2/2, ln2/2] (Cephes); below kExpFloor a float's exp is denormal and counts as 0.
constexpr float kExpFloor = -87.33f, kLog2E = 1.44269504f, kLn2High = 0.693359375f, kLn2Low = -2.12194440e-4f;
constexpr float kExp[] = {1.9875691500e-4f, 1.3981999507e-3f, 8.3334519073e-3f,
                          4.1665795894e-2f, 1.6666665459e-1f, 5.0000001201e-1f};

#define SPARSEPO_FOR_EACH                                                                   \
  template <typename T, typename Body>                                                      \
  inline void for_each(int64_t n, const Body& body) {                                       \
    for (int64_t i = 0; i < n; i += Vec::kWidth) body(i, n - i);                            \
  }

namespace portable {

struct Vec {
  static constexpr int kWidth = 8;
  float lane[kWidth];

  Vec() = default;
  explicit Vec(float value) {
    for (float& x : lane) x = value;
  }
  template <typename T>
  static Vec load(const T* data) {
    Vec v;
    for (int i = 0; i < kWidth; ++i) v.lane[i] = to_float(data[i]);
    return v;
  }
  template <typename T>
  static Vec load_tail(const T* data, int64_t count, float fill) {
    Vec v(fill);
    for (int i = 0; i < kWidth && i < count; ++i) v.lane[i] = to_float(data[i]);
    return v;
  }
  void store(float* data) const { std::memcpy(data, lane, sizeof lane); }
  template <typename T>
  void store_tail(T* data, int64_t count) const {
    for (int i = 0; i < kWidth && i < count; ++i) data[i] = from_float<T>(lane[i]);
  }
};

template <typename Op>
inline Vec map(const Vec& a, const Vec& b, Op op) {
  Vec v;
  for (int i = 0; i < Vec::kWidth; ++i) v.lane[i] = op(a.lane[i], b.lane[i]);
  return v;
}
inline Vec operator+(const Vec& a, const Vec& b) { return map(a, b, [](float x, float y) { return x + y; }); }
inline Vec operator-(const Vec& a, const Vec& b) { return map(a, b, [](float x, float y) { return x - y; }); }
inline Vec operator*(const Vec& a, const Vec& b) { return map(a, b, [](float x, float y) { return x * y; }); }
inline Vec max(const Vec& a, const Vec& b) { return map(a, b, [](float x, float y) { return x > y ? x : y; }); }
inline Vec exp(const Vec& a) {
  return map(a, a, [](float x, float) { return x < kExpFloor ? 0.f : std::exp(x); });
}
// value where condition > 0, else otherwise
inline Vec select_positive(const Vec& condition, const Vec& value, const Vec& otherwise) {
  Vec v;
  for (int i = 0; i < Vec::kWidth; ++i) v.lane[i] = condition.lane[i] > 0 ? value.lane[i] : otherwise.lane[i];
  return v;
}

SPARSEPO_FOR_EACH
#include "masked_kl_rows.inc"

}  // namespace portable

#ifdef SPARSEPO_X86

#pragma GCC push_options
#pragma GCC target("avx2,fma")
namespace avx2 {

struct Vec {
  static constexpr int kWidth = 8;
  __m256 v;

  explicit Vec(float value) : v(_mm256_set1_ps(value)) {}
  Vec(__m256 value) : v(value) {}
  static Vec load(const float* data) { return _mm256_loadu_ps(data); }
  static Vec load(const BFloat16* data) {
    const __m128i half = _mm_loadu_si128(reinterpret_cast<const __m128i*>(data));
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(half), 16));
  }
  template <typename T>
  static Vec load_tail(const T* data, int64_t count, float fill) {
    if (count >= kWidth) return load(data);
    alignas(32) float lane[kWidth];
    for (int i = 0; i < kWidth; ++i) lane[i] = i < count ? to_float(data[i]) : fill;
    return _mm256_load_ps(lane);
  }
  void store(float* data) const { _mm256_storeu_ps(data, v); }
  void store(BFloat16* data) const {
    const __m256i bits = _mm256_castps_si256(v);
    const __m256i odd = _mm256_and_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(1));
    __m256i rounded = _mm256_srli_epi32(_mm256_add_epi32(bits, _mm256_add_epi32(odd, _mm256_set1_epi32(0x7fff))), 16);
    const __m256i unordered = _mm256_castps_si256(_mm256_cmp_ps(v, v, _CMP_UNORD_Q));
    rounded = _mm256_blendv_epi8(rounded, _mm256_set1_epi32(0x7fc0), unordered);
    const __m256i packed = _mm256_permute4x64_epi64(_mm256_packus_epi32(rounded, rounded), 0xd8);
    _mm_storeu_si128(reinterpret_cast<__m128i*>(data), _mm256_castsi256_si128(packed));
  }
  template <typename T>
  void store_tail(T* data, int64_t count) const {
    if (count >= kWidth) return store(data);
    alignas(32) float lane[kWidth];
    _mm256_store_ps(lane, v);
    for (int i = 0; i < count; ++i) data[i] = from_float<T>(lane[i]);
  }
};

inline Vec operator+(Vec a, Vec b) { return _mm256_add_ps(a.v, b.v); }
inline Vec operator-(Vec a, Vec b) { return _mm256_sub_ps(a.v, b.v); }
inline Vec operator*(Vec a, Vec b) { return _mm256_mul_ps(a.v, b.v); }
inline Vec max(Vec a, Vec b) { return _mm256_max_ps(a.v, b.v); }
inline Vec select_positive(Vec condition, Vec value, Vec otherwise) {
  return _mm256_blendv_ps(otherwise.v, value.v, _mm256_cmp_ps(condition.v, _mm256_setzero_ps(), _CMP_GT_OQ));
}
inline Vec exp(Vec x) {
  const __m256 n = _mm256_round_ps(_mm256_mul_ps(x.v, _mm256_set1_ps(kLog2E)), _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
  __m256 r = _mm256_fnmadd_ps(n, _mm256_set1_ps(kLn2High), x.v);
  r = _mm256_fnmadd_ps(n, _mm256_set1_ps(kLn2Low), r);
  __m256 p = _mm256_set1_ps(kExp[0]);
  for (int i = 1; i < 6; ++i) p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(kExp[i]));
  p = _mm256_add_ps(_mm256_fmadd_ps(p, _mm256_mul_ps(r, r), r), _mm256_set1_ps(1.f));
  const __m256i scale = _mm256_slli_epi32(_mm256_add_epi32(_mm256_cvtps_epi32(n), _mm256_set1_epi32(127)), 23);
  p = _mm256_mul_ps(p, _mm256_castsi256_ps(scale));
  return _mm256_andnot_ps(_mm256_cmp_ps(x.v, _mm256_set1_ps(kExpFloor), _CMP_LT_OQ), p);
}

SPARSEPO_FOR_EACH
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
  static __m512 widen(__m256i half) {
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(half), 16));
  }
  static Vec load(const float* data) { return _mm512_loadu_ps(data); }
  static Vec load(const BFloat16* data) { return widen(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(data))); }
  static __mmask16 first(int64_t count) { return static_cast<__mmask16>((1u << count) - 1); }
  static Vec load_tail(const float* data, int64_t count, float fill) {
    if (count >= kWidth) return load(data);
    return _mm512_mask_loadu_ps(_mm512_set1_ps(fill), first(count), data);
  }
  static Vec load_tail(const BFloat16* data, int64_t count, float fill) {
    if (count >= kWidth) return load(data);
    return _mm512_mask_blend_ps(first(count), _mm512_set1_ps(fill), widen(_mm256_maskz_loadu_epi16(first(count), data)));
  }
  void store(float* data) const { _mm512_storeu_ps(data, v); }
  __m256i narrow() const {
    const __m512i bits = _mm512_castps_si512(v);
    const __m512i odd = _mm512_and_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1));
    __m512i rounded = _mm512_srli_epi32(_mm512_add_epi32(bits, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff))), 16);
    rounded = _mm512_mask_mov_epi32(rounded, _mm512_cmp_ps_mask(v, v, _CMP_UNORD_Q), _mm512_set1_epi32(0x7fc0));
    return _mm512_cvtepi32_epi16(rounded);
  }
  void store_tail(float* data, int64_t count) const {
    count >= kWidth ? _mm512_storeu_ps(data, v) : _mm512_mask_storeu_ps(data, first(count), v);
  }
  void store_tail(BFloat16* data, int64_t count) const {
    _mm256_mask_storeu_epi16(data, count >= kWidth ? __mmask16(0xffff) : first(count), narrow());
  }
};

inline Vec operator+(Vec a, Vec b) { return _mm512_add_ps(a.v, b.v); }
inline Vec operator-(Vec a, Vec b) { return _mm512_sub_ps(a.v, b.v); }
inline Vec operator*(Vec a, Vec b) { return _mm512_mul_ps(a.v, b.v); }
inline Vec max(Vec a, Vec b) { return _mm512_max_ps(a.v, b.v); }
inline Vec select_positive(Vec condition, Vec value, Vec otherwise) {
  return _mm512_mask_blend_ps(_mm512_cmp_ps_mask(condition.v, _mm512_setzero_ps(), _CMP_GT_OQ), otherwise.v, value.v);
}
inline Vec exp(Vec x) {
  const __m512 n = _mm512_roundscale_ps(_mm512_mul_ps(x.v, _mm512_set1_ps(kLog2E)), _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
  __m512 r = _mm512_fnmadd_ps(n, _mm512_set1_ps(kLn2High), x.v);
  r = _mm512_fnmadd_ps(n, _mm512_set1_ps(kLn2Low), r);
  __m512 p = _mm512_set1_ps(kExp[0]);
  for (int i = 1; i < 6; ++i) p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(kExp[i]));
  p = _mm512_add_ps(_mm512_fmadd_ps(p, _mm512_mul_ps(r, r), r), _mm512_set1_ps(1.f));
  const __mmask16 keep = _mm512_cmp_ps_mask(x.v, _mm512_set1_ps(kExpFloor), _CMP_NLT_UQ);
  return _mm512_maskz_scalef_ps(keep, p, n);
}

SPARSEPO_FOR_EACH
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
