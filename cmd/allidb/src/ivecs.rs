//! The `ivecs` layout of ground truth: records of a little-endian int32 count and that many int32.
//! Source: <http://corpus-texmex.irisa.fr/>.

use anyhow::{Result, bail};

/// Reads row numbers; every record must have the same, positive length. Never panics.
pub(crate) fn parse(bytes: &[u8]) -> Result<Vec<Vec<u32>>> {
    let (numbers, rest) = bytes.as_chunks::<4>();
    if !rest.is_empty() {
        bail!("{} bytes are not a whole number of int32", bytes.len());
    }
    let Some((first, _)) = numbers.split_first() else { return Ok(Vec::new()) };
    let length = i32::from_le_bytes(*first);
    let Ok(length @ 1..) = usize::try_from(length) else { bail!("the first record has {length} numbers") };
    let mut records = Vec::new();
    for (index, record) in numbers.chunks(length + 1).enumerate() {
        let Some((head, rows)) = record.split_first().filter(|(_, rows)| rows.len() == length) else {
            bail!("record {index} is cut off");
        };
        if usize::try_from(i32::from_le_bytes(*head)) != Ok(length) {
            bail!("record {index} has {} numbers, the first has {length}", i32::from_le_bytes(*head));
        }
        let row = |bytes: &[u8; 4]| u32::try_from(i32::from_le_bytes(*bytes));
        match rows.iter().map(row).collect::<Result<Vec<_>, _>>() {
            Ok(rows) => records.push(rows),
            Err(_) => bail!("record {index} holds a negative row number"),
        }
    }
    Ok(records)
}

/// Writes records of row numbers.
pub(crate) fn write(records: &[Vec<u32>]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for record in records {
        bytes.extend((record.len() as u32).to_le_bytes());
        bytes.extend(record.iter().flat_map(|row| row.to_le_bytes()));
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        let records = vec![vec![3, 1, 4], vec![1, 5, 9]];
        assert_eq!(parse(&write(&records)).unwrap(), records);
        assert_eq!(parse(&[]).unwrap(), Vec::<Vec<u32>>::new());
    }

    #[test]
    fn garbage_is_refused_with_a_reason() {
        let good = write(&[vec![1, 2], vec![3, 4]]);
        for length in 1..good.len() {
            assert_eq!(parse(&good[..length]).is_ok(), length == 12, "{length} bytes");
        }
        let mut uneven = good.clone();
        uneven[12] = 1;
        assert!(parse(&uneven).unwrap_err().to_string().contains("record 1 has 1"));
        let mut negative = good;
        negative[4..8].copy_from_slice(&(-1i32).to_le_bytes());
        assert!(parse(&negative).unwrap_err().to_string().contains("negative"));
        assert!(parse(&0u32.to_le_bytes()).is_err());
        assert!(parse(&u32::MAX.to_le_bytes()).is_err());
        assert!(parse(&i32::MAX.to_le_bytes()).is_err());
    }
}
