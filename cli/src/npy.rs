//! Arrays in NumPy's `.npy` format: what the command reads and writes, and nothing else.
//!
//! # Source
//! NumPy enhancement proposal 1, format versions 1.0 and 2.0.

use gatewarp::{Complex32, Complex64};
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;

const MAGIC: &[u8; 6] = b"\x93NUMPY";

/// Numbers of a matrix, in the width they were stored.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Reals {
    Single(Vec<f32>),
    Double(Vec<f64>),
}

/// A matrix in row-major order.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Matrix {
    pub(crate) rows: usize,
    pub(crate) columns: usize,
    pub(crate) values: Reals,
}

impl Reals {
    /// Place and value of the first NaN or infinity.
    pub(crate) fn first_not_finite(&self) -> Option<(usize, f64)> {
        match self {
            Self::Single(values) => {
                values.iter().position(|value| !value.is_finite()).map(|at| (at, values[at].into()))
            }
            Self::Double(values) => {
                values.iter().position(|value| !value.is_finite()).map(|at| (at, values[at]))
            }
        }
    }

    /// In single precision; doubles are rounded.
    pub(crate) fn single(&self) -> Vec<f32> {
        match self {
            Self::Single(values) => values.clone(),
            Self::Double(values) => values.iter().map(|&value| value as f32).collect(),
        }
    }

    /// In double precision.
    pub(crate) fn double(&self) -> Vec<f64> {
        match self {
            Self::Single(values) => values.iter().map(|&value| value.into()).collect(),
            Self::Double(values) => values.clone(),
        }
    }
}

/// Reads a `[rows, columns]` array of f32 or f64 in C or Fortran order. An array of one dimension counts as a single row.
pub(crate) fn read(path: &Path) -> Result<Matrix, String> {
    let shown = path.display();
    let bytes = std::fs::read(path).map_err(|error| format!("{shown}: {error}"))?;
    parse(&bytes).map_err(|message| format!("{shown}: {message}"))
}

fn parse(bytes: &[u8]) -> Result<Matrix, String> {
    let Some(rest) = bytes.strip_prefix(MAGIC) else {
        return Err("this is not a .npy file; write one with numpy.save".into());
    };
    let (wide, rest) = match rest {
        [1, _, rest @ ..] => (false, rest),
        [2 | 3, _, rest @ ..] => (true, rest),
        [version, ..] => return Err(format!("version {version} of .npy is not known")),
        [] => return Err("the header is cut off".into()),
    };
    let (length, rest) = match (wide, rest) {
        (false, [a, b, rest @ ..]) => (usize::from(u16::from_le_bytes([*a, *b])), rest),
        (true, [a, b, c, d, rest @ ..]) => (u32::from_le_bytes([*a, *b, *c, *d]) as usize, rest),
        _ => return Err("the header is cut off".into()),
    };
    let (header, data) = rest.split_at_checked(length).ok_or("the header is cut off")?;
    let header = std::str::from_utf8(header).map_err(|_| "the header is not text")?;
    let header = Header::parse(header)?;
    let (rows, columns) = match header.shape[..] {
        [columns] => (1, columns),
        [rows, columns] => (rows, columns),
        ref other => return Err(format!("the array has shape {other:?}, expected [samples, inputs]")),
    };
    let size = match header.descr.as_str() {
        "<f4" => 4,
        "<f8" => 8,
        ">f4" | ">f8" => return Err("the numbers are big-endian; save them as \"<f4\" or \"<f8\"".into()),
        other => return Err(format!("the array holds {other:?}, expected float32 or float64")),
    };
    let count = rows.checked_mul(columns).and_then(|count| count.checked_mul(size));
    if count != Some(data.len()) {
        return Err(format!(
            "{rows} × {columns} numbers of {size} bytes are announced, {} bytes follow",
            data.len()
        ));
    }
    // In Fortran order the first index runs fastest.
    let place = |at: usize| if header.fortran { at % columns * rows + at / columns } else { at };
    let count = rows * columns;
    let values = if size == 4 {
        let at = |i: usize| data[4 * i..4 * i + 4].try_into().map_or(0.0, f32::from_le_bytes);
        Reals::Single((0..count).map(|i| at(place(i))).collect())
    } else {
        let at = |i: usize| data[8 * i..8 * i + 8].try_into().map_or(0.0, f64::from_le_bytes);
        Reals::Double((0..count).map(|i| at(place(i))).collect())
    };
    Ok(Matrix { rows, columns, values })
}

#[derive(Debug, PartialEq)]
struct Header {
    descr: String,
    fortran: bool,
    shape: Vec<usize>,
}

impl Header {
    /// Reads the Python dictionary of three known keys that a header is.
    fn parse(text: &str) -> Result<Self, String> {
        let value = |key: &str| -> Result<&str, String> {
            let at = text.find(&format!("'{key}'")).or_else(|| text.find(&format!("\"{key}\"")));
            let rest = at.map(|at| text[at + key.len() + 2..].trim_start());
            let rest = rest.and_then(|rest| rest.strip_prefix(':')).map(str::trim_start);
            rest.ok_or_else(|| format!("the header lacks `{key}`"))
        };
        let descr = value("descr")?;
        let descr = match descr.chars().next() {
            Some(quote @ ('\'' | '"')) => descr[1..].split(quote).next().unwrap_or(""),
            _ => return Err("the array holds records, expected float32 or float64".into()),
        };
        let fortran = match value("fortran_order")? {
            text if text.starts_with("True") => true,
            text if text.starts_with("False") => false,
            _ => return Err("`fortran_order` is neither True nor False".into()),
        };
        let shape = value("shape")?.strip_prefix('(').and_then(|text| text.split_once(')'));
        let (shape, _) = shape.ok_or("`shape` is not a tuple")?;
        let dimensions = shape.split(',').map(str::trim).filter(|text| !text.is_empty());
        let shape = dimensions
            .map(|text| text.parse().map_err(|_| format!("`{text}` in the shape is not a size")))
            .collect::<Result<_, String>>()?;
        Ok(Self { descr: descr.into(), fortran, shape })
    }
}

/// A number that can be written.
pub(crate) trait Number: Copy {
    const DESCR: &'static str;
    fn put(self, out: &mut impl Write) -> std::io::Result<()>;
}

impl Number for f32 {
    const DESCR: &'static str = "<f4";
    fn put(self, out: &mut impl Write) -> std::io::Result<()> {
        out.write_all(&self.to_le_bytes())
    }
}

impl Number for f64 {
    const DESCR: &'static str = "<f8";
    fn put(self, out: &mut impl Write) -> std::io::Result<()> {
        out.write_all(&self.to_le_bytes())
    }
}

impl Number for Complex32 {
    const DESCR: &'static str = "<c8";
    fn put(self, out: &mut impl Write) -> std::io::Result<()> {
        self.re.put(out)?;
        self.im.put(out)
    }
}

impl Number for Complex64 {
    const DESCR: &'static str = "<c16";
    fn put(self, out: &mut impl Write) -> std::io::Result<()> {
        self.re.put(out)?;
        self.im.put(out)
    }
}

fn header<T: Number>(shape: &[usize]) -> Vec<u8> {
    let sizes: String = shape.iter().map(|size| format!("{size},")).collect();
    let mut text = format!("{{'descr': '{}', 'fortran_order': False, 'shape': ({sizes}), }}", T::DESCR);
    // Magic, version and length are ten bytes; the data starts at a multiple of 64.
    while (10 + text.len() + 1) % 64 != 0 {
        text.push(' ');
    }
    text.push('\n');
    let length = u16::try_from(text.len()).unwrap_or(u16::MAX);
    [MAGIC, &[1, 0][..], &length.to_le_bytes(), text.as_bytes()].concat()
}

/// Writes an array in C order.
pub(crate) fn write<T: Number>(path: &Path, shape: &[usize], values: &[T]) -> Result<(), String> {
    let done = || -> std::io::Result<()> {
        let mut out = BufWriter::with_capacity(1 << 20, File::create(path)?);
        out.write_all(&header::<T>(shape))?;
        values.iter().try_for_each(|value| value.put(&mut out))?;
        out.flush()
    };
    done().map_err(|error| format!("{}: {error}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(version: u8, header: &str, data: &[u8]) -> Vec<u8> {
        let mut out = [MAGIC, &[version, 0][..]].concat();
        match version {
            1 => out.extend((header.len() as u16).to_le_bytes()),
            _ => out.extend((header.len() as u32).to_le_bytes()),
        }
        [&out, header.as_bytes(), data].concat()
    }

    fn doubles(values: &[f64]) -> Vec<u8> {
        values.iter().flat_map(|value| value.to_le_bytes()).collect()
    }

    #[test]
    fn orders_and_versions() -> Result<(), String> {
        let values = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0];
        let c = "{'descr': '<f8', 'fortran_order': False, 'shape': (2, 3), }\n";
        let want = Matrix { rows: 2, columns: 3, values: Reals::Double(values.to_vec()) };
        assert_eq!(parse(&file(1, c, &doubles(&values)))?, want);
        assert_eq!(parse(&file(2, c, &doubles(&values)))?, want);
        let f = "{\"shape\":(2,3),\"fortran_order\":True,\"descr\":\"<f8\"}";
        assert_eq!(parse(&file(1, f, &doubles(&[1.0, 4.0, 2.0, 5.0, 3.0, 6.0])))?, want);
        let row = "{'descr': '<f4', 'fortran_order': False, 'shape': (2,), }";
        let bytes: Vec<u8> = [0.5f32, -1.5].iter().flat_map(|value| value.to_le_bytes()).collect();
        let got = parse(&file(1, row, &bytes))?;
        assert_eq!(got, Matrix { rows: 1, columns: 2, values: Reals::Single(vec![0.5, -1.5]) });
        let empty = "{'descr': '<f8', 'fortran_order': True, 'shape': (0, 3), }";
        assert_eq!(parse(&file(1, empty, &[]))?.rows, 0);
        Ok(())
    }

    #[test]
    fn what_is_written_is_read() -> Result<(), String> {
        for shape in [&[3usize, 5][..], &[1, 1], &[0, 4]] {
            let values: Vec<f32> = (0..shape[0] * shape[1]).map(|i| i as f32 - 2.5).collect();
            let mut bytes = header::<f32>(shape);
            assert_eq!(bytes.len() % 64, 0);
            for value in &values {
                value.put(&mut bytes).map_err(|error| error.to_string())?;
            }
            assert_eq!(parse(&bytes)?.values, Reals::Single(values));
        }
        assert!(
            String::from_utf8_lossy(&header::<Complex32>(&[8]))
                .contains("'<c8', 'fortran_order': False, 'shape': (8,)")
        );
        Ok(())
    }

    #[test]
    fn damaged_files_are_errors() {
        let good =
            file(1, "{'descr': '<f8', 'fortran_order': False, 'shape': (2, 3), }\n", &doubles(&[0.0; 6]));
        for end in 0..good.len() {
            assert!(parse(&good[..end]).is_err(), "{end} bytes");
        }
        assert!(parse(&[&good[..], &[0]].concat()).is_err());
        let descr = |descr: &str| {
            file(1, &format!("{{'descr': {descr}, 'fortran_order': False, 'shape': (1, 1), }}"), &[0; 8])
        };
        for bad in ["'>f8'", "'<i8'", "'<c8'", "'|O'", "[('a', '<f8')]"] {
            assert!(parse(&descr(bad)).is_err(), "{bad}");
        }
        for shape in ["(18446744073709551615, 2)", "(1, 1, 1)", "()", "(-1, 2)", "(a, 2)", "3"] {
            let header = format!("{{'descr': '<f8', 'fortran_order': False, 'shape': {shape}, }}");
            assert!(parse(&file(1, &header, &[0; 8])).is_err(), "{shape}");
        }
        assert!(parse(&file(1, "{'descr': '<f8'}", &[])).is_err());
        assert!(parse(&file(9, "", &[])).is_err());
    }
}
