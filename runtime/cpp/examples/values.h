// Values of tensors: read and written as fp32, random, and how far two tensors are from each other.
#pragma once

#include <cstddef>
#include <cstdint>
#include <wanrt/wanrt.hpp>

// Of a tensor in fp32, fp16 or bf16; `store` rounds to nearest.
std::size_t count_values(const wanrt::Tensor& tensor);
float load(const wanrt::Tensor& tensor, std::size_t index);
void store(const wanrt::Tensor& tensor, std::size_t index, float value);

// Fill an input with values: in its range, or from -1 to 1 if it has none.
void fill_random(const wanrt::Tensor& tensor, std::uint64_t seed);

// Whether no value is NaN or infinite.
bool is_finite(const wanrt::Tensor& tensor);

// Whether dtype, shape and every bit are the same.
bool equal_bits(const wanrt::Tensor& a, const wanrt::Tensor& b);

// |a - b| / |b| in the L2 norm; infinite if shapes or dtypes differ, or a value isn't a number.
double distance(const wanrt::Tensor& a, const wanrt::Tensor& b);
