//! Vectors as codes of a few bits a coordinate.
//!
//! A vector is prepared for its metric, moved by the centre of its segment, rotated, and each coordinate rounded
//! to a grid whose step is chosen for that vector alone (locally adaptive quantisation: Aguerrebere and others,
//! "Similarity search in the blink of an eye with compressed indices", 2023; the rotation as in RaBitQ: Gao and
//! Long, 2024). What rounding left over is coded once more, with eight bits, for the re-ranking.

use crate::vector::kernel::CodeKind;

/// Coordinates are taken for no longer than this.
const LONGEST: f32 = 1e16;

/// A float that is added to this has no room for fractions left: the sum is the nearest whole number, ties to even. Unlike
/// `round` it needs no call where the compiler may not use an instruction for it.
const SHIFT: f32 = (3 << 22) as f32;

/// How a segment holds its rows for the walk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Form {
    /// Each coordinate rounded to a code.
    Codes(CodeKind),
    /// As they are: f32 a coordinate, filled up with zeros to whole blocks.
    Floats,
}

impl Form {
    /// Bytes of a row.
    pub(crate) fn row_bytes(self, dimension: usize) -> usize {
        match self {
            Form::Codes(kind) => kind.row_bytes(dimension),
            Form::Floats => (4 * dimension).next_multiple_of(64),
        }
    }

    /// Puts a rotated vector into a zeroed row; returns the step, and leaves in `vector` what the row does not say.
    pub(crate) fn encode(self, vector: &mut [f32], row: &mut [u8]) -> f32 {
        match self {
            Form::Codes(kind) => Grid(kind).encode(vector, row),
            Form::Floats => {
                for (x, bytes) in vector.iter_mut().zip(row.as_chunks_mut().0) {
                    *bytes = x.clamp(-LONGEST, LONGEST).to_le_bytes();
                    *x = 0.0;
                }
                1.0
            }
        }
    }
}

/// How rows are coded for the walk: coordinate = step · (code − middle).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Grid(pub(crate) CodeKind);

impl Grid {
    /// The code that stands for zero; for even grids it lies between two codes.
    pub(crate) fn middle(self) -> f32 {
        match self.0 {
            CodeKind::Bits8 => 128.0,
            CodeKind::Bits4 => 7.5,
            CodeKind::Bits1 => 0.5,
        }
    }

    fn highest(self) -> f32 {
        match self.0 {
            CodeKind::Bits8 => 255.0,
            CodeKind::Bits4 => 15.0,
            CodeKind::Bits1 => 1.0,
        }
    }

    fn code(self, x: f32, inverse_step: f32) -> f32 {
        let at = x * inverse_step + self.middle();
        // An even grid has a code on either side of zero and none at it.
        let lowest = if self.0 == CodeKind::Bits8 { 1.0 } else { 0.0 };
        at.clamp(lowest, self.highest()) + SHIFT - SHIFT
    }

    /// Codes a rotated vector into a zeroed row; returns the step, and leaves in `vector` what the codes do not say.
    pub(crate) fn encode(self, vector: &mut [f32], row: &mut [u8]) -> f32 {
        // Beyond this squares would overflow; what is so long is farther or nearer than all else anyway.
        vector.iter_mut().for_each(|x| *x = x.clamp(-LONGEST, LONGEST));
        let step = self.step(vector);
        let inverse = if step > 0.0 { 1.0 / step } else { 0.0 };
        for (at, x) in vector.iter_mut().enumerate() {
            let code = self.code(*x, inverse);
            *x -= step * (code - self.middle());
            put(self.0, row, at, code as u8);
        }
        step
    }

    /// The step with the least error, or nearly so.
    fn step(self, vector: &[f32]) -> f32 {
        let greatest = vector.iter().fold(0.0_f32, |most, x| most.max(x.abs()));
        if greatest == 0.0 {
            return 0.0;
        }
        // Steps at which a bell curve is coded best, around which the best for this vector is looked for.
        let power = vector.iter().map(|x| x * x).sum::<f32>() / vector.len() as f32;
        if power == 0.0 {
            // So short that its squares are nothing.
            return 0.0;
        }
        let tried: &[f32] = match self.0 {
            CodeKind::Bits8 => return greatest / 127.0,
            CodeKind::Bits4 => &[0.28, 0.31, 0.34, 0.37, 0.40],
            CodeKind::Bits1 => &[1.6],
        };
        let mut best = (f32::INFINITY, greatest);
        for factor in tried {
            let inverse = 1.0 / (factor * power.sqrt());
            let (mut product, mut square) = (0.0_f32, 0.0_f32);
            for x in vector {
                let level = self.code(*x, inverse) - self.middle();
                product += level * x;
                square += level * level;
            }
            // For these levels the least error is at the step product / square.
            let error = -product * product / square;
            if error < best.0 {
                best = (error, product / square);
            }
        }
        // What lies far outside the grid would make the residuals coarse, whose step is set by the greatest of them.
        let widest = if self.0 == CodeKind::Bits4 { greatest / (self.middle() + 2.0) } else { 0.0 };
        best.1.max(widest)
    }
}

fn put(kind: CodeKind, row: &mut [u8], at: usize, code: u8) {
    let (block, within) = (at / kind.per_block() * 64, at % kind.per_block());
    match kind {
        CodeKind::Bits8 => row[block + within] = code,
        CodeKind::Bits4 if within < 64 => row[block + within] |= code,
        CodeKind::Bits4 => row[block + within - 64] |= code << 4,
        CodeKind::Bits1 => row[block + within / 8] |= code << (within % 8),
    }
}

/// The whole number nearest to one that is not far from zero.
#[inline(always)]
fn nearest_whole(x: f32) -> i32 {
    ((x + SHIFT).to_bits() as i32).wrapping_sub(SHIFT.to_bits() as i32)
}

/// A rotated query as two signed digits to the base 256 a coordinate: the high ones are enough for a walk, both
/// together leave no error that matters.
#[derive(Clone, Debug, Default)]
pub(crate) struct QueryCodes {
    pub(crate) high: Vec<i8>,
    pub(crate) low: Vec<i8>,
    /// What a high digit of one stands for.
    pub(crate) step: f32,
    pub(crate) high_sum: i64,
    pub(crate) low_sum: i64,
}

impl QueryCodes {
    /// What the sums of products with all codes one would be.
    pub(crate) fn sum(&self) -> f64 {
        (256 * self.high_sum + self.low_sum) as f64
    }

    /// Codes a rotated query for rows of this kind.
    pub(crate) fn new(kind: CodeKind, rotated: &[f32]) -> Self {
        let len = kind.query_len(rotated.len());
        let mut codes = Self { high: vec![0; len], low: vec![0; len], ..Self::default() };
        let greatest = rotated.iter().fold(0.0_f32, |most, x| most.max(x.abs())).min(LONGEST);
        if greatest < f32::MIN_POSITIVE * 1e6 {
            return codes;
        }
        codes.step = greatest / 127.0;
        let fine = 256.0 / codes.step;
        // At most 65,535 digits of one byte.
        let (mut high_sum, mut low_sum) = (0_i32, 0_i32);
        for ((x, high), low) in rotated.iter().zip(&mut codes.high).zip(&mut codes.low) {
            let whole = nearest_whole(x.clamp(-greatest, greatest) * fine);
            let low_digit = ((whole + 128) & 255) - 128;
            let high_digit = (whole - low_digit) >> 8;
            (*high, *low) = (high_digit as i8, low_digit as i8);
            high_sum += high_digit;
            low_sum += low_digit;
        }
        (codes.high_sum, codes.low_sum) = (i64::from(high_sum), i64::from(low_sum));
        codes
    }
}
