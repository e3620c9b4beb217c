//! Checks the encoding of a `ModelProto` before decoding: a singular (not repeated) field may occur only once in a
//! message. Protobuf decoders merge duplicates or keep the last, so ortolan and ONNX Runtime could read different
//! values.
//!
//! Source: `onnx/onnx.proto` (field numbers), and protobuf's "Encoding" (last one wins).

use prost::encoding::{DecodeContext, WireType, decode_key, decode_varint, skip_field};

/// Maximum nesting depth of messages, the same as prost's.
const MAX_NESTING: usize = 100;

/// A protobuf message type and its fields that are checked.
struct MessageFields {
    name: &'static str,
    /// Groups of field numbers (one singular field, or the fields of a `oneof`). At most one field of a group may
    /// occur, and only once.
    single: &'static [&'static [u32]],
    /// Field numbers of nested messages, with their types.
    messages: &'static [(u32, &'static MessageFields)],
}

static MODEL: MessageFields = MessageFields {
    name: "ModelProto",
    single: &[&[1], &[2], &[3], &[7]],
    messages: &[(7, &GRAPH), (8, &OPERATOR_SET), (25, &FUNCTION)],
};
static OPERATOR_SET: MessageFields = MessageFields {
    name: "OperatorSetIdProto",
    single: &[&[1], &[2]],
    messages: &[],
};
static FUNCTION: MessageFields = MessageFields {
    name: "FunctionProto",
    single: &[&[1], &[10], &[13]],
    messages: &[(7, &NODE), (9, &OPERATOR_SET), (11, &ATTRIBUTE)],
};
static GRAPH: MessageFields = MessageFields {
    name: "GraphProto",
    single: &[&[2]],
    messages: &[
        (1, &NODE),
        (5, &TENSOR),
        (11, &VALUE_INFO),
        (12, &VALUE_INFO),
    ],
};
static NODE: MessageFields = MessageFields {
    name: "NodeProto",
    single: &[&[3], &[4], &[7], &[8]],
    messages: &[(5, &ATTRIBUTE)],
};
static ATTRIBUTE: MessageFields = MessageFields {
    name: "AttributeProto",
    single: &[
        &[1],
        &[2],
        &[3],
        &[4],
        &[5],
        &[6],
        &[14],
        &[20],
        &[21],
        &[22],
    ],
    messages: &[(5, &TENSOR), (6, &GRAPH), (10, &TENSOR), (11, &GRAPH)],
};
static TENSOR: MessageFields = MessageFields {
    name: "TensorProto",
    single: &[&[2], &[8], &[9], &[14]],
    messages: &[(13, &ENTRY)],
};
static ENTRY: MessageFields = MessageFields {
    name: "StringStringEntryProto",
    single: &[&[1], &[2]],
    messages: &[],
};
static VALUE_INFO: MessageFields = MessageFields {
    name: "ValueInfoProto",
    single: &[&[1], &[2]],
    messages: &[(2, &TYPE)],
};
static TYPE: MessageFields = MessageFields {
    name: "TypeProto",
    single: &[&[1, 4, 5, 7, 8, 9]],
    messages: &[(1, &TENSOR_TYPE)],
};
static TENSOR_TYPE: MessageFields = MessageFields {
    name: "TypeProto.Tensor",
    single: &[&[1], &[2]],
    messages: &[(2, &SHAPE)],
};
static SHAPE: MessageFields = MessageFields {
    name: "TensorShapeProto",
    single: &[],
    messages: &[(1, &DIMENSION)],
};
static DIMENSION: MessageFields = MessageFields {
    name: "TensorShapeProto.Dimension",
    single: &[&[1, 2]],
    messages: &[],
};

/// Checks that no singular field of a `ModelProto` occurs more than once.
///
/// # Errors
/// If a singular field occurs twice, or the bytes are not valid protobuf.
pub(super) fn check_single_fields(model: &[u8]) -> Result<(), String> {
    check(&MODEL, model, MAX_NESTING)
}

fn check(message: &MessageFields, bytes: &[u8], depth: usize) -> Result<(), String> {
    let Some(depth) = depth.checked_sub(1) else {
        return Err(format!("messages are nested deeper than {MAX_NESTING}"));
    };
    let mut seen = 0_u32;
    visit_fields(bytes, &mut |field, bytes_of_field| {
        let groups = message.single.iter();
        if let Some(group) = groups.clone().position(|group| group.contains(&field)) {
            let bit = 1 << group;
            if seen & bit != 0 {
                return Err(match message.single[group] {
                    [_] => format!("duplicate field {field} in {}", message.name),
                    group => format!("more than one of the fields {group:?} in {}", message.name),
                });
            }
            seen |= bit;
        }
        let inner = message.messages.iter().find(|(number, _)| *number == field);
        match (inner, bytes_of_field) {
            (Some((_, inner)), Some(bytes_of_field)) => check(inner, bytes_of_field, depth),
            _ => Ok(()),
        }
    })
}

/// A callback that receives a field's number, and the field's bytes if the field is length-delimited.
type FieldVisitor<'a> = dyn FnMut(u32, Option<&[u8]>) -> Result<(), String> + 'a;

/// Calls `visit` with each field of a message, in order.
pub(super) fn visit_fields(mut message: &[u8], visit: &mut FieldVisitor<'_>) -> Result<(), String> {
    let to_text = |error: prost::DecodeError| error.to_string();
    while !message.is_empty() {
        let (field, kind) = decode_key(&mut message).map_err(to_text)?;
        if kind != WireType::LengthDelimited {
            let context = DecodeContext::default();
            skip_field(kind, field, &mut message, context).map_err(to_text)?;
            visit(field, None)?;
            continue;
        }
        let length = decode_varint(&mut message).map_err(to_text)?;
        let length = usize::try_from(length).ok();
        let Some((bytes_of_field, rest)) =
            length.and_then(|length| message.split_at_checked(length))
        else {
            return Err("the data ends within a field".to_owned());
        };
        visit(field, Some(bytes_of_field))?;
        message = rest;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use prost::Message as _;

    use super::super::super::onnx::proto;
    use super::*;

    /// Encodes `message` as the field `field` of another message.
    fn field_with(field: u8, message: &[u8]) -> Vec<u8> {
        let length = u8::try_from(message.len()).unwrap();
        assert!(length < 128 && field < 16);
        [&[field << 3 | 2, length], message].concat()
    }

    #[track_caller]
    fn check_refused(model: &[u8], message: &str) {
        // Prost's decoder accepts the duplicate.
        assert!(proto::Model::decode(model).is_ok());
        assert_eq!(check_single_fields(model).err().as_deref(), Some(message));
    }

    #[test]
    fn rejects_duplicate_singular_fields() {
        let graph = |bytes: &[u8]| field_with(7, bytes);
        check_refused(
            &[graph(&[]), graph(&[])].concat(),
            "duplicate field 7 in ModelProto",
        );
        let raw = field_with(9, b"1234");
        let tensor = |bytes: &[u8]| graph(&field_with(5, bytes));
        check_refused(
            &tensor(&[&raw[..], &raw].concat()),
            "duplicate field 9 in TensorProto",
        );
        let location = [
            field_with(1, b"location"),
            field_with(2, b"a"),
            field_with(2, b"/b"),
        ]
        .concat();
        check_refused(
            &tensor(&field_with(13, &location)),
            "duplicate field 2 in StringStringEntryProto",
        );
        // `data_type` is a varint, not length-delimited.
        check_refused(
            &tensor(&[2 << 3, 1, 2 << 3, 7]),
            "duplicate field 2 in TensorProto",
        );
        let operator = [field_with(4, b"Add"), field_with(4, b"Mul")].concat();
        check_refused(
            &graph(&field_with(1, &operator)),
            "duplicate field 4 in NodeProto",
        );
        let attribute = field_with(6, &field_with(2, b"a"));
        check_refused(
            &graph(&field_with(
                1,
                &field_with(5, &[attribute.clone(), attribute].concat()),
            )),
            "duplicate field 6 in AttributeProto",
        );
        let size = [&field_with(2, b"n")[..], &[1 << 3, 4]].concat();
        let shape = field_with(2, &field_with(1, &size));
        check_refused(
            &graph(&field_with(11, &field_with(2, &field_with(1, &shape)))),
            "more than one of the fields [1, 2] in TensorShapeProto.Dimension",
        );
    }

    #[test]
    fn accepts_repeated_fields() {
        let node = field_with(1, &[field_with(1, b"a"), field_with(1, b"b")].concat());
        let model = field_with(7, &[node.clone(), node].concat());
        assert_eq!(check_single_fields(&model), Ok(()));
    }

    #[test]
    fn all_singular_fields_of_a_tensor_are_checked() {
        let tensor = proto::Tensor {
            data_type: 1,
            name: "t".to_owned(),
            raw_data: Some(vec![0; 4].into()),
            data_location: Some(1),
            ..proto::Tensor::default()
        };
        let bytes = tensor.encode_to_vec();
        let mut fields = Vec::new();
        visit_fields(&bytes, &mut |field, _| {
            fields.push(field);
            Ok(())
        })
        .unwrap();
        let single: Vec<u32> = TENSOR.single.concat();
        assert_eq!(fields, single);
    }
}
