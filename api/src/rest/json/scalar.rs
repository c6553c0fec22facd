//! A number, text or truth of JSON as a field's kind has it.

use base64::{
    Engine,
    alphabet::{STANDARD, URL_SAFE},
    engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig},
};
use prost::encoding::encode_varint;
use prost_reflect::Kind;

/// What JSON has besides arrays and objects.
#[derive(Clone, Copy, Debug)]
pub(super) enum Scalar<'a> {
    Bool(bool),
    Signed(i64),
    Unsigned(u64),
    Double(f64),
    Text(&'a str),
    /// Of a query string, which has only texts.
    Parameter(&'a str),
}

/// Base64 with or without padding.
const LENIENT: GeneralPurposeConfig =
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent);
const BASE64: GeneralPurpose = GeneralPurpose::new(&STANDARD, LENIENT);
const BASE64_OF_URLS: GeneralPurpose = GeneralPurpose::new(&URL_SAFE, LENIENT);

/// Why a value is not taken: the end of a sentence that begins with the field.
type Why = String;

impl Scalar<'_> {
    /// What it is, in words.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Bool(_) => "a truth",
            Self::Signed(_) | Self::Unsigned(_) | Self::Double(_) => "a number",
            Self::Text(_) | Self::Parameter(_) => "a string",
        }
    }

    /// Appends it as a field of the kind has it, without the field's tag.
    pub(super) fn encode(self, kind: &Kind, out: &mut Vec<u8>) -> Result<(), Why> {
        match kind {
            Kind::Double => out.extend_from_slice(&self.double()?.to_le_bytes()),
            Kind::Float => out.extend_from_slice(&self.float()?.to_le_bytes()),
            Kind::Int32 => encode_varint(i64::from(self.integer::<i32>()?).cast_unsigned(), out),
            Kind::Int64 => encode_varint(self.integer::<i64>()?.cast_unsigned(), out),
            Kind::Uint32 => encode_varint(self.integer::<u32>()?.into(), out),
            Kind::Uint64 => encode_varint(self.integer::<u64>()?, out),
            Kind::Sint32 => {
                let value = self.integer::<i32>()?;
                encode_varint(u64::from(((value << 1) ^ (value >> 31)).cast_unsigned()), out);
            }
            Kind::Sint64 => {
                let value = self.integer::<i64>()?;
                encode_varint(((value << 1) ^ (value >> 63)).cast_unsigned(), out);
            }
            Kind::Fixed32 => out.extend_from_slice(&self.integer::<u32>()?.to_le_bytes()),
            Kind::Fixed64 => out.extend_from_slice(&self.integer::<u64>()?.to_le_bytes()),
            Kind::Sfixed32 => out.extend_from_slice(&self.integer::<i32>()?.to_le_bytes()),
            Kind::Sfixed64 => out.extend_from_slice(&self.integer::<i64>()?.to_le_bytes()),
            Kind::Bool => out.push(self.truth()?.into()),
            Kind::String => append(self.text()?.as_bytes(), out),
            Kind::Bytes => {
                let text = self.text()?;
                let base64 = if text.contains(['-', '_']) { BASE64_OF_URLS } else { BASE64 };
                append(&base64.decode(text).map_err(|_| "must be base64".to_owned())?, out);
            }
            Kind::Enum(kind) => {
                let number = match self {
                    Self::Text(name) | Self::Parameter(name) => {
                        let value = kind.get_value_by_name(name).ok_or_else(|| {
                            let names: Vec<String> =
                                kind.values().map(|value| value.name().to_owned()).collect();
                            format!("is {name:?}, and must be one of {}", names.join(", "))
                        })?;
                        value.number()
                    }
                    _ => self.integer()?,
                };
                encode_varint(i64::from(number).cast_unsigned(), out);
            }
            Kind::Message(_) => return Err(self.must_be("an object")),
        }
        Ok(())
    }

    pub(super) fn text(&self) -> Result<&str, Why> {
        match self {
            Self::Text(text) | Self::Parameter(text) => Ok(text),
            _ => Err(self.must_be("a string")),
        }
    }

    fn truth(self) -> Result<bool, Why> {
        match self {
            Self::Bool(truth) => Ok(truth),
            Self::Parameter("true") => Ok(true),
            Self::Parameter("false") => Ok(false),
            _ => Err(self.must_be("true or false")),
        }
    }

    fn integer<T: TryFrom<i128>>(self) -> Result<T, Why> {
        let whole = match self {
            Self::Signed(number) => i128::from(number),
            Self::Unsigned(number) => i128::from(number),
            Self::Double(number) if number.fract() == 0.0 && number.abs() < 1e18 => number as i128,
            Self::Text(text) | Self::Parameter(text) => {
                text.parse().map_err(|_| format!("must be a whole number, not {text:?}"))?
            }
            _ => return Err(self.must_be("a whole number")),
        };
        T::try_from(whole).map_err(|_| format!("is {whole}, which is out of its range"))
    }

    fn double(self) -> Result<f64, Why> {
        match self {
            Self::Double(number) => Ok(number),
            Self::Signed(number) => Ok(number as f64),
            Self::Unsigned(number) => Ok(number as f64),
            Self::Text(text) | Self::Parameter(text) => {
                text.parse().map_err(|_| format!("must be a number, not {text:?}"))
            }
            Self::Bool(_) => Err(self.must_be("a number")),
        }
    }

    fn float(self) -> Result<f32, Why> {
        let double = self.double()?;
        let float = double as f32;
        if float.is_infinite() && double.is_finite() {
            return Err(format!("is {double:e}, which is larger than a float holds"));
        }
        Ok(float)
    }

    pub(super) fn must_be(self, what: &str) -> Why {
        format!("must be {what}, not {}", self.name())
    }
}

/// Appends a length and as many bytes.
pub(super) fn append(bytes: &[u8], out: &mut Vec<u8>) {
    encode_varint(bytes.len() as u64, out);
    out.extend_from_slice(bytes);
}
