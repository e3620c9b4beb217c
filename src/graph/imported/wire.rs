//! A `ModelProto` before it is decoded: a field that may have one value has at most one entry in each message. Protobuf's
//! decoders merge two entries, or keep the last: what is checked here and what a runtime reads could then differ.
//!
//! Source: `onnx/onnx.proto` (field numbers), and protobuf's "Encoding" (last one wins).

use prost::encoding::{DecodeContext, WireType, decode_key, decode_varint, skip_field};

/// Most messages within each other; prost decodes as many.
const MAX_NESTING: usize = 100;

/// The fields of a message that are read here.
struct Message {
    name: &'static str,
    /// Fields that have one value; of those in one group at most one is there.
    single: &'static [&'static [u32]],
    /// Fields that are messages.
    messages: &'static [(u32, &'static Message)],
}

static MODEL: Message = Message {
    name: "ModelProto",
    single: &[&[1], &[2], &[3], &[7]],
    messages: &[(7, &GRAPH), (8, &OPERATOR_SET), (25, &FUNCTION)],
};
static OPERATOR_SET: Message = Message {
    name: "OperatorSetIdProto",
    single: &[&[1], &[2]],
    messages: &[],
};
static FUNCTION: Message = Message {
    name: "FunctionProto",
    single: &[&[1], &[10], &[13]],
    messages: &[(7, &NODE), (9, &OPERATOR_SET), (11, &ATTRIBUTE)],
};
static GRAPH: Message = Message {
    name: "GraphProto",
    single: &[&[2]],
    messages: &[
        (1, &NODE),
        (5, &TENSOR),
        (11, &VALUE_INFO),
        (12, &VALUE_INFO),
    ],
};
static NODE: Message = Message {
    name: "NodeProto",
    single: &[&[3], &[4], &[7], &[8]],
    messages: &[(5, &ATTRIBUTE)],
};
static ATTRIBUTE: Message = Message {
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
static TENSOR: Message = Message {
    name: "TensorProto",
    single: &[&[2], &[8], &[9], &[14]],
    messages: &[(13, &ENTRY)],
};
static ENTRY: Message = Message {
    name: "StringStringEntryProto",
    single: &[&[1], &[2]],
    messages: &[],
};
static VALUE_INFO: Message = Message {
    name: "ValueInfoProto",
    single: &[&[1], &[2]],
    messages: &[(2, &TYPE)],
};
static TYPE: Message = Message {
    name: "TypeProto",
    single: &[&[1, 4, 5, 7, 8, 9]],
    messages: &[(1, &TENSOR_TYPE)],
};
static TENSOR_TYPE: Message = Message {
    name: "TypeProto.Tensor",
    single: &[&[1], &[2]],
    messages: &[(2, &SHAPE)],
};
static SHAPE: Message = Message {
    name: "TensorShapeProto",
    single: &[],
    messages: &[(1, &DIMENSION)],
};
static DIMENSION: Message = Message {
    name: "TensorShapeProto.Dimension",
    single: &[&[1, 2]],
    messages: &[],
};

/// Checks that no field of a `ModelProto` that may have one value has two entries.
///
/// # Errors
/// Which field has; or the bytes are no protobuf.
pub(super) fn check_single_fields(model: &[u8]) -> Result<(), String> {
    check(&MODEL, model, MAX_NESTING)
}

fn check(message: &Message, bytes: &[u8], depth: usize) -> Result<(), String> {
    let Some(depth) = depth.checked_sub(1) else {
        return Err(format!("messages are nested deeper than {MAX_NESTING}"));
    };
    let mut seen = 0_u32;
    parts(bytes, &mut |field, part| {
        let groups = message.single.iter();
        if let Some(group) = groups.clone().position(|group| group.contains(&field)) {
            let bit = 1 << group;
            if seen & bit != 0 {
                return Err(match message.single[group] {
                    [_] => format!("the field {field} of a {} has two entries", message.name),
                    group => format!("two of the fields {group:?} of a {} are set", message.name),
                });
            }
            seen |= bit;
        }
        let inner = message.messages.iter().find(|(own, _)| *own == field);
        match (inner, part) {
            (Some((_, inner)), Some(part)) => check(inner, part, depth),
            _ => Ok(()),
        }
    })
}

/// Hears a field's number, and its bytes if it has a length.
type ShowPart<'a> = dyn FnMut(u32, Option<&[u8]>) -> Result<(), String> + 'a;

/// Shows the fields of a message in their order.
pub(super) fn parts(mut message: &[u8], show: &mut ShowPart<'_>) -> Result<(), String> {
    let in_words = |error: prost::DecodeError| error.to_string();
    while !message.is_empty() {
        let (field, kind) = decode_key(&mut message).map_err(in_words)?;
        if kind != WireType::LengthDelimited {
            let context = DecodeContext::default();
            skip_field(kind, field, &mut message, context).map_err(in_words)?;
            show(field, None)?;
            continue;
        }
        let length = decode_varint(&mut message).map_err(in_words)?;
        let length = usize::try_from(length).ok();
        let Some((part, rest)) = length.and_then(|length| message.split_at_checked(length)) else {
            return Err("it ends in the middle".to_owned());
        };
        show(field, Some(part))?;
        message = rest;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use prost::Message as _;

    use super::super::super::onnx::proto;
    use super::*;

    /// A message in a field of another one.
    fn within(field: u8, message: &[u8]) -> Vec<u8> {
        let length = u8::try_from(message.len()).unwrap();
        assert!(length < 128 && field < 16);
        [&[field << 3 | 2, length], message].concat()
    }

    #[track_caller]
    fn check_refused(model: &[u8], words: &str) {
        // A decoder takes it.
        assert!(proto::Model::decode(model).is_ok());
        assert_eq!(check_single_fields(model).err().as_deref(), Some(words));
    }

    #[test]
    fn a_field_of_one_value_with_two_entries_is_refused() {
        let graph = |bytes: &[u8]| within(7, bytes);
        check_refused(
            &[graph(&[]), graph(&[])].concat(),
            "the field 7 of a ModelProto has two entries",
        );
        let raw = within(9, b"1234");
        let tensor = |bytes: &[u8]| graph(&within(5, bytes));
        check_refused(
            &tensor(&[&raw[..], &raw].concat()),
            "the field 9 of a TensorProto has two entries",
        );
        let location = [within(1, b"location"), within(2, b"a"), within(2, b"/b")].concat();
        check_refused(
            &tensor(&within(13, &location)),
            "the field 2 of a StringStringEntryProto has two entries",
        );
        // The data's type, which has no length.
        check_refused(
            &tensor(&[2 << 3, 1, 2 << 3, 7]),
            "the field 2 of a TensorProto has two entries",
        );
        let operator = [within(4, b"Add"), within(4, b"Mul")].concat();
        check_refused(
            &graph(&within(1, &operator)),
            "the field 4 of a NodeProto has two entries",
        );
        let attribute = within(6, &within(2, b"a"));
        check_refused(
            &graph(&within(
                1,
                &within(5, &[attribute.clone(), attribute].concat()),
            )),
            "the field 6 of a AttributeProto has two entries",
        );
        let size = [&within(2, b"n")[..], &[1 << 3, 4]].concat();
        let shape = within(2, &within(1, &size));
        check_refused(
            &graph(&within(11, &within(2, &within(1, &shape)))),
            "two of the fields [1, 2] of a TensorShapeProto.Dimension are set",
        );
    }

    #[test]
    fn fields_of_several_values_may_have_several_entries() {
        let node = within(1, &[within(1, b"a"), within(1, b"b")].concat());
        let model = within(7, &[node.clone(), node].concat());
        assert_eq!(check_single_fields(&model), Ok(()));
    }

    #[test]
    fn the_single_fields_of_a_tensor_are_in_the_table() {
        let tensor = proto::Tensor {
            data_type: 1,
            name: "t".to_owned(),
            raw_data: Some(vec![0; 4].into()),
            data_location: Some(1),
            ..proto::Tensor::default()
        };
        let bytes = tensor.encode_to_vec();
        let mut fields = Vec::new();
        parts(&bytes, &mut |field, _| {
            fields.push(field);
            Ok(())
        })
        .unwrap();
        let single: Vec<u32> = TENSOR.single.concat();
        assert_eq!(fields, single);
    }
}
