// SPDX-License-Identifier: Apache-2.0
#include "base/check.h"
#include "base/x86_vnni_codes.h"
#include "kernels/unpack/unpack.h"

namespace edgefold {
namespace {

template <int kBits, int kRegisters>
void Unpack(const PackedMatrix& matrix, int64_t panel, int64_t first_unit, int64_t units,
            int8_t* out) {
  const Entries<kRegisters> entries(matrix, 0);
  const uint8_t* codes = matrix.PanelCodes(panel) + first_unit * 8 * kBits;
  for (int64_t first = 0; first < units; first += kGroupUnits) {
    const int64_t group = (first_unit + first) / kGroupUnits;
    const __m512i offsets = TableOffsets<kBits>(matrix.GroupSelectors(panel, group));
    const int64_t end = first + kGroupUnits < units ? first + kGroupUnits : units;
    for (int64_t u = first; u < end; ++u) {
      _mm512_storeu_si512(out + u * kUnitCodes,
                          LoadWeights<kBits>(entries, codes + u * 8 * kBits, offsets));
    }
  }
}

}  // namespace

void unpack_x86_vnni(const PackedMatrix& matrix, int64_t panel, int64_t first_unit, int64_t units,
                     int8_t* out) {
  EF_ASSUME(first_unit % kGroupUnits == 0);
  static constexpr UnpackKernel* kByBits[2][7] = {
      {Unpack<2, 2>, Unpack<3, 2>, Unpack<4, 2>, Unpack<5, 2>, Unpack<6, 2>, Unpack<7, 2>,
       Unpack<8, 4>},
      {nullptr, nullptr, Unpack<4, 4>, Unpack<5, 4>, Unpack<6, 4>, Unpack<7, 4>, Unpack<8, 4>}};
  kByBits[TableRegisters(matrix) > 2][matrix.bits - 2](matrix, panel, first_unit, units, out);
}

}  // namespace edgefold
