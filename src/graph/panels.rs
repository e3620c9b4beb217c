//! Packed weights of ortolan's operator `MatMulPanels`. A panel contains eight rows of a matrix. A record contains the
//! quants, scales and mins of a group of columns of these rows, in the order in which the operator reads them. Packing
//! is lossless.
//!
//! ```text
//! panel   rows 8p to 8p + 7; with interleaved halves: even panels from the first half, odd panels from the second
//!   record  a group of 16 or 32 columns
//!     quants    for each four columns: four quants of each of the eight rows, one byte each
//!               4-bit: the low nibble is the quant of column c, the high nibble of column c + group size / 2
//!     scales    eight numbers, in half precision if that is exact
//!     mins      the same, if the type has mins
//! ```

mod store;

use half::f16;

use crate::gguf::quant::QuantFormat;
pub use store::{PanelStore, Panels};

/// Number of rows in a panel.
pub const PANEL_ROWS: usize = 8;

/// How a panel's quants are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PanelQuants {
    /// Quants from 0 to 15, two in a byte.
    Nibbles(ZeroPoint),
    /// Quants from 0 to 63, one byte each.
    SixBits(ZeroPoint),
    /// Quants from 0 to 255, one byte each, with the zero point 128.
    EightBits,
}

/// How a stored quant `q` maps to a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ZeroPoint {
    /// The value is `scale · q + min`, with a min for each group in the record.
    GroupMin,
    /// The value is `scale · (q - z)`, with this zero point `z` for all groups.
    Fixed(u8),
}

impl PanelQuants {
    /// The zero point of the stored quants.
    pub fn zero_point(self) -> ZeroPoint {
        match self {
            Self::Nibbles(zero_point) | Self::SixBits(zero_point) => zero_point,
            Self::EightBits => ZeroPoint::Fixed(128),
        }
    }

    /// Number of floats in a record for each row: a scale, and a min if the type has mins.
    fn floats_per_row(self) -> usize {
        match self.zero_point() {
            ZeroPoint::GroupMin => 2,
            ZeroPoint::Fixed(_) => 1,
        }
    }

    /// Number of bits of a stored quant.
    pub fn bits(self) -> usize {
        match self {
            Self::Nibbles(_) => 4,
            Self::SixBits(_) | Self::EightBits => 8,
        }
    }
}

/// The layout of a panel's records.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PanelLayout {
    /// Number of columns in a record: 16 or 32.
    pub group_size: usize,
    /// How quants are stored.
    pub quants: PanelQuants,
    /// Whether scales and mins are in half precision.
    pub half_precision: bool,
}

/// The dimensions and the row order of a packed matrix.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MatrixShape {
    /// Number of rows: the outputs of a matmul.
    pub rows: usize,
    /// Number of columns: the inputs of a matmul.
    pub columns: usize,
    /// Whether panels of the first and of the second half of the rows alternate.
    pub interleaved_halves: bool,
}

impl MatrixShape {
    fn panels(self) -> usize {
        match self.interleaved_halves {
            false => self.rows.div_ceil(PANEL_ROWS),
            true => 2 * (self.rows / 2).div_ceil(PANEL_ROWS),
        }
    }

    /// Returns the matrix row in lane `lane` (one of the eight rows) of a panel; `None` for padding.
    fn row(self, panel: usize, lane: usize) -> Option<usize> {
        let (first, end, panel) = match self.interleaved_halves {
            false => (0, self.rows, panel),
            true => (panel % 2 * self.rows / 2, self.rows / 2, panel / 2),
        };
        let row = panel * PANEL_ROWS + lane;
        (row < end).then_some(first + row)
    }
}

impl PanelLayout {
    /// Returns the layout for a quant format.
    ///
    /// # Panics
    /// If the format has both mins and 8-bit quants. No tensor type does.
    pub fn new(format: QuantFormat) -> Self {
        let zero_point = match format.has_min {
            true => ZeroPoint::GroupMin,
            false => ZeroPoint::Fixed(format.min_quant.unsigned_abs()),
        };
        Self {
            group_size: format.group_size,
            quants: match format.max_quant.abs_diff(format.min_quant) {
                ..16 => PanelQuants::Nibbles(zero_point),
                16..64 => PanelQuants::SixBits(zero_point),
                _ => {
                    assert_ne!(
                        zero_point,
                        ZeroPoint::GroupMin,
                        "8-bit quants with mins: {format:?}"
                    );
                    PanelQuants::EightBits
                }
            },
            half_precision: format.half_precision,
        }
    }

    /// Size of a record in bytes.
    pub fn record_bytes(self) -> usize {
        let number = if self.half_precision {
            size_of::<f16>()
        } else {
            size_of::<f32>()
        };
        PANEL_ROWS
            * (self.group_size * self.quants.bits() / 8 + self.quants.floats_per_row() * number)
    }

    /// Size in bytes of a panel with `columns` columns.
    pub fn panel_bytes(self, columns: usize) -> usize {
        columns / self.group_size * self.record_bytes()
    }

    /// Size of a packed matrix in bytes.
    pub fn bytes(self, shape: MatrixShape) -> usize {
        shape.panels() * self.panel_bytes(shape.columns)
    }

    /// Writes the quants, scale and min of a row's group to lane `lane` of the group's record.
    fn write(self, record: &mut [u8], lane: usize, quants: &[i8], scale: f32, min: f32) {
        let zero = match self.quants.zero_point() {
            ZeroPoint::GroupMin => 0,
            ZeroPoint::Fixed(zero) => zero,
        };
        let quant_bytes = PANEL_ROWS * self.group_size * self.quants.bits() / 8;
        let (stored, numbers) = record.split_at_mut(quant_bytes);
        let stored = stored.as_chunks_mut().0;
        let byte = |quant: i8| quant.cast_unsigned().wrapping_add(zero);
        let fours = quants.as_chunks::<4>().0;
        match self.quants {
            PanelQuants::Nibbles(_) => {
                let (low, high) = fours.split_at(fours.len() / 2);
                for (index, (low, high)) in low.iter().zip(high).enumerate() {
                    let both = |column: usize| byte(low[column]) | byte(high[column]) << 4;
                    stored[index * PANEL_ROWS + lane] = std::array::from_fn(both);
                }
            }
            PanelQuants::SixBits(_) | PanelQuants::EightBits => {
                for (index, four) in fours.iter().enumerate() {
                    stored[index * PANEL_ROWS + lane] = four.map(byte);
                }
            }
        }
        let values = [scale, min];
        for (index, value) in values[..self.quants.floats_per_row()].iter().enumerate() {
            let position = index * PANEL_ROWS + lane;
            match self.half_precision {
                true => numbers.as_chunks_mut().0[position] = f16::from_f32(*value).to_le_bytes(),
                false => numbers.as_chunks_mut().0[position] = value.to_le_bytes(),
            }
        }
    }
}
