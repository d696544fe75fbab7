// Sums of the 8 units of a panel by rows, side by side, since every row adds other numbers: those that its code picks
// from a table.
#pragma once

#include <cstdint>
#include <cstring>

#include "engine/simd-inl.h"
#include "plan/plan.h"

namespace made_fast {
namespace MADE_FAST_ISA {

constexpr int kTablesAtOnce = 16;  // that are added while some rows are in registers
constexpr int kEveryRow = -1;

template <class T, int lanes>
struct ByRows {
  static constexpr int unit_bytes = kPanelRows * int(sizeof(T));  // of an entry of a table
  // An entry in vectors that the processor has.
  static constexpr int part_bytes = unit_bytes < MADE_FAST_VECTOR_BYTES ? unit_bytes : MADE_FAST_VECTOR_BYTES;
  static constexpr int parts = unit_bytes / part_bytes, part_units = kPanelRows / parts;
  typedef T Units __attribute__((vector_size(part_bytes)));

  // sums (lanes, 8) += an entry of each table; codes (lanes,) of each count bytes from its start.
  template <class Code>
  static MADE_FAST_NOINLINE void add(const T* const* tables, const Code* const* codes, int count, T* sums) {
    constexpr int together = int(sizeof(uint64_t) / sizeof(Code));  // codes: loads are what is short here
    constexpr int rows = rows_of(1);
    static_assert(rows % together == 0, "whole words of codes");
    for (int start = 0; start < lanes; start += rows) {
      T* own = sums + start * kPanelRows;
      Units sum[rows * parts];
#pragma GCC unroll 32
      for (int i = 0; i < rows * parts; ++i) std::memcpy(&sum[i], own + i * part_units, sizeof sum[i]);
      for (int i = 0; i < count; ++i) {
        const char* table = reinterpret_cast<const char*>(tables[i]);
        const Code* code = codes[i] + start;
#pragma GCC unroll 32
        for (int r = 0; r < rows; r += together) {
          uint64_t word;
          std::memcpy(&word, code + r, sizeof word);
#pragma GCC unroll 4
          for (int j = 0; j < together; ++j) {
            const char* at = table + static_cast<Code>(word >> 8 * j * int(sizeof(Code)));
#pragma GCC unroll 4
            for (int part = 0; part < parts; ++part) {
              Units entry;
              std::memcpy(&entry, at + part * part_bytes, sizeof entry);
              sum[(r + j) * parts + part] += entry;
            }
          }
        }
      }
#pragma GCC unroll 32
      for (int i = 0; i < rows * parts; ++i) std::memcpy(own + i * part_units, &sum[i], sizeof sum[i]);
    }
  }

  // out (8, lanes) from sums (lanes, 8); lane i is that of row i & row_mask.
  static MADE_FAST_INLINE void by_units(const T* sums, int row_mask, T* out) {
    for (int lane = 0; lane < lanes; lane += part_units) {
#pragma GCC unroll 4
      for (int part = 0; part < parts; ++part) {
        Units square[part_units];
#pragma GCC unroll 8
        for (int i = 0; i < part_units; ++i)
          std::memcpy(&square[i], sums + ((lane + i) & row_mask) * kPanelRows + part * part_units, sizeof square[i]);
        transpose_square<Units, Places, part_units>(square);
#pragma GCC unroll 8
        for (int i = 0; i < part_units; ++i)
          std::memcpy(out + (part * part_units + i) * lanes + lane, &square[i], sizeof square[i]);
      }
    }
  }

  // out (lanes,), of one unit.
  static MADE_FAST_INLINE void by_unit(const T* sums, int row_mask, int unit, T* out) {
    for (int lane = 0; lane < lanes; ++lane) out[lane] = sums[(lane & row_mask) * kPanelRows + unit];
  }

 private:
  typedef typename Simd<T>::Scalar Places __attribute__((vector_size(part_bytes)));

  // Rows whose sums fit into registers beside an entry.
  static constexpr int most_rows = (MADE_FAST_REGISTERS - 2) / parts;
  static constexpr int rows_of(int pieces) {
    return lanes % pieces == 0 && lanes / pieces <= most_rows ? lanes / pieces : rows_of(pieces + 1);
  }
};

}  // namespace MADE_FAST_ISA
}  // namespace made_fast
