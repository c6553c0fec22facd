//! Looking up numbers among many that ascend, and that were handed out one after the other: where one stands is guessed from how
//! large it is (interpolation search: Perl, Itai and Avni, 1978), then looked for around there.

use std::ops::Range;

/// Guesses before what is left is looked through.
const GUESSES: usize = 3;

/// The first place within `range` whose number is not below `wanted`, or the end of the range. Numbers ascend from place to place.
pub(crate) fn first_not_below(range: Range<usize>, wanted: u64, number: impl Fn(usize) -> u64) -> usize {
    // Whatever is before `low` is below, whatever is from `high` on is not.
    let (mut low, mut high) = (range.start, range.end);
    if low >= high {
        return high;
    }
    let (mut first, mut last) = (number(low), number(high - 1));
    if first >= wanted || last < wanted {
        return if first >= wanted { low } else { high };
    }
    let mut guess = low;
    for _ in 0..GUESSES {
        let part = u128::from(wanted - first) * (high - 1 - low) as u128 / u128::from(last - first);
        guess = low + part as usize;
        let found = number(guess);
        if found < wanted {
            (low, first) = (guess, found);
        } else {
            (high, last) = (guess + 1, found);
        }
        if found == wanted || high - low <= 2 {
            break;
        }
    }
    // From the last guess on in steps that double, so that a near miss costs little.
    let mut step = 1;
    if low == guess {
        while low + step < high && number(low + step) < wanted {
            low += step;
            step *= 2;
        }
        high = high.min(low + step + 1);
    } else {
        high -= 1;
        while high - low > step && number(high - step) >= wanted {
            high -= step;
            step *= 2;
        }
        low = low.max(high.saturating_sub(step));
    }
    while low < high {
        let middle = low + (high - low) / 2;
        if number(middle) < wanted { low = middle + 1 } else { high = middle }
    }
    low
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn it_finds_what_halving_finds(
            mut numbers in prop::collection::vec(prop_oneof![0..300_u64, any::<u64>()], 0..200),
            wanted in prop_oneof![0..300_u64, any::<u64>()],
            from in 0..200_usize,
        ) {
            numbers.sort_unstable();
            let from = from.min(numbers.len());
            for wanted in numbers.iter().copied().chain([wanted, 0, u64::MAX]) {
                let expected = from + numbers[from..].partition_point(|number| *number < wanted);
                prop_assert_eq!(first_not_below(from..numbers.len(), wanted, |at| numbers[at]), expected);
            }
        }
    }

    #[test]
    fn numbers_with_gaps_are_found_in_few_looks() {
        let numbers: Vec<u64> = (0..1_000_000).filter(|number| number % 7 != 3 && number % 11 > 2).collect();
        let looks = Cell::new(0);
        for wanted in (0..1_000_000).step_by(997) {
            first_not_below(0..numbers.len(), wanted, |at| {
                looks.set(looks.get() + 1);
                numbers[at]
            });
        }
        assert!(looks.get() / 1_004 <= 9, "{} looks", looks.get());
    }
}
