//! Quantised matrices as our operator `MatMulPanels` reads them: eight rows at a time, the codes, scales and minimums of a
//! group of columns beside each other, in the order in which they are needed. Nothing is rounded anew.
//!
//! ```text
//! panel   rows 8p to 8p + 7; of a matrix in halves the even ones are of the first, the odd ones of the second half
//!   record  a group of 16 or 32 columns
//!     codes     of each four columns: eight rows' four codes, a byte each
//!               in 4 bits: a byte has the code of a column and, in its upper half, of the one half a group further
//!     scales    eight numbers, in half precision where that is exact
//!     minimums  the same, if the type has any
//! ```

mod store;

use half::f16;

use crate::gguf::quant::Codes;
pub use store::{PanelStore, Panels};

/// Rows of a panel.
pub const PANEL_ROWS: usize = 8;

/// How a panel's codes are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PanelCodes {
    /// From 0 to 15, two in a byte.
    Nibbles(Origin),
    /// From 0 to 63.
    SixBits(Origin),
    /// From 0 to 255; 128 stands for 0.
    EightBits,
}

/// From where codes count.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// A code of 0 stands for the group's minimum, which its record has.
    Minimum,
    /// This code stands for 0.
    Zero(u8),
}

impl PanelCodes {
    /// From where they count.
    pub fn origin(self) -> Origin {
        match self {
            Self::Nibbles(origin) | Self::SixBits(origin) => origin,
            Self::EightBits => Origin::Zero(128),
        }
    }

    /// Numbers that a record has for each row: a scale, and a minimum where codes count from it.
    fn numbers(self) -> usize {
        match self.origin() {
            Origin::Minimum => 2,
            Origin::Zero(_) => 1,
        }
    }

    /// Bits that a code takes.
    pub fn bits(self) -> usize {
        match self {
            Self::Nibbles(_) => 4,
            Self::SixBits(_) | Self::EightBits => 8,
        }
    }
}

/// What a panel's records look like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PanelLayout {
    /// Columns of a record: 16 or 32.
    pub group: usize,
    /// Its codes.
    pub codes: PanelCodes,
    /// Whether scales and minimums are in half precision.
    pub half: bool,
}

/// The sizes of a matrix in panels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MatrixShape {
    /// Rows: outputs of a product.
    pub rows: usize,
    /// Columns: inputs of a product.
    pub columns: usize,
    /// Whether panels of its halves follow in turn.
    pub halves: bool,
}

impl MatrixShape {
    fn panels(self) -> usize {
        match self.halves {
            false => self.rows.div_ceil(PANEL_ROWS),
            true => 2 * (self.rows / 2).div_ceil(PANEL_ROWS),
        }
    }

    /// The row that is the `lane`-th of a panel, if there is one.
    fn row(self, panel: usize, lane: usize) -> Option<usize> {
        let (first, end, panel) = match self.halves {
            false => (0, self.rows, panel),
            true => (panel % 2 * self.rows / 2, self.rows / 2, panel / 2),
        };
        let row = panel * PANEL_ROWS + lane;
        (row < end).then_some(first + row)
    }
}

impl PanelLayout {
    /// The one for such codes.
    ///
    /// # Panics
    /// If there are minimums beside codes of eight bits: no type has them.
    pub fn new(codes: Codes) -> Self {
        let origin = match codes.minimum {
            true => Origin::Minimum,
            false => Origin::Zero(codes.least.unsigned_abs()),
        };
        Self {
            group: codes.group,
            codes: match codes.most.abs_diff(codes.least) {
                ..16 => PanelCodes::Nibbles(origin),
                16..64 => PanelCodes::SixBits(origin),
                _ => {
                    assert_ne!(origin, Origin::Minimum, "of eight bits: {codes:?}");
                    PanelCodes::EightBits
                }
            },
            half: codes.half,
        }
    }

    /// Bytes of a record.
    pub fn record_bytes(self) -> usize {
        let number = if self.half {
            size_of::<f16>()
        } else {
            size_of::<f32>()
        };
        PANEL_ROWS * (self.group * self.codes.bits() / 8 + self.codes.numbers() * number)
    }

    /// Bytes of a panel with so many columns.
    pub fn panel_bytes(self, columns: usize) -> usize {
        columns / self.group * self.record_bytes()
    }

    /// Bytes of a matrix.
    pub fn bytes(self, shape: MatrixShape) -> usize {
        shape.panels() * self.panel_bytes(shape.columns)
    }

    /// Writes a group of one row into its record.
    fn write(self, record: &mut [u8], lane: usize, codes: &[i8], scale: f32, minimum: f32) {
        let zero = match self.codes.origin() {
            Origin::Minimum => 0,
            Origin::Zero(zero) => zero,
        };
        let code_bytes = PANEL_ROWS * self.group * self.codes.bits() / 8;
        let (stored, numbers) = record.split_at_mut(code_bytes);
        let stored = stored.as_chunks_mut().0;
        let byte = |code: i8| code.cast_unsigned().wrapping_add(zero);
        let fours = codes.as_chunks::<4>().0;
        match self.codes {
            PanelCodes::Nibbles(_) => {
                let (low, high) = fours.split_at(fours.len() / 2);
                for (place, (low, high)) in low.iter().zip(high).enumerate() {
                    let both = |column: usize| byte(low[column]) | byte(high[column]) << 4;
                    stored[place * PANEL_ROWS + lane] = std::array::from_fn(both);
                }
            }
            PanelCodes::SixBits(_) | PanelCodes::EightBits => {
                for (place, four) in fours.iter().enumerate() {
                    stored[place * PANEL_ROWS + lane] = four.map(byte);
                }
            }
        }
        let values = [scale, minimum];
        for (place, value) in values[..self.codes.numbers()].iter().enumerate() {
            let place = place * PANEL_ROWS + lane;
            match self.half {
                true => numbers.as_chunks_mut().0[place] = f16::from_f32(*value).to_le_bytes(),
                false => numbers.as_chunks_mut().0[place] = value.to_le_bytes(),
            }
        }
    }
}
