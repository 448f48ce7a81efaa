use proptest::prelude::*;

use super::*;

#[derive(Debug, Clone)]
enum Field {
    Uint(u32, u64),
    Sint(u32, i64),
    Bytes(u32, Vec<u8>),
}

fn field_number() -> impl Strategy<Value = u32> {
    prop_oneof![1u32..16, 16u32..=(1 << 29) - 1]
}

fn field() -> impl Strategy<Value = Field> {
    prop_oneof![
        (field_number(), any::<u64>()).prop_map(|(field, value)| Field::Uint(field, value)),
        (field_number(), any::<i64>()).prop_map(|(field, value)| Field::Sint(field, value)),
        (field_number(), prop::collection::vec(any::<u8>(), 0..300))
            .prop_map(|(field, bytes)| Field::Bytes(field, bytes)),
    ]
}

fn write(writer: &mut Writer<'_>, fields: &[Field]) {
    for field in fields {
        match field {
            Field::Uint(field, value) => writer.uint(*field, *value),
            Field::Sint(field, value) => writer.sint(*field, *value),
            Field::Bytes(field, bytes) => writer.bytes(*field, bytes),
        }
    }
}

proptest! {
    #[test]
    fn what_is_written_is_read(fields in prop::collection::vec(field(), 0..20)) {
        let mut buffer = vec![0; 20 * 330];
        let mut writer = Writer::new(&mut buffer);
        write(&mut writer, &fields);
        let len = writer.finish().unwrap();

        let mut read = Reader::new(&buffer[..len]);
        let mut counted = 0;
        for field in &fields {
            match field {
                Field::Uint(_, 0) | Field::Sint(_, 0) => {}
                Field::Uint(number, value) => {
                    prop_assert_eq!(read.next(), Some(Ok((*number, Value::Varint(*value)))));
                    counted += uint_len(*number, *value);
                }
                Field::Sint(number, value) => {
                    let Some(Ok((got, Value::Varint(bits)))) = read.next() else { panic!("no varint") };
                    prop_assert_eq!((got, unzigzag(bits)), (*number, *value));
                    counted += uint_len(*number, zigzag(*value));
                }
                Field::Bytes(number, bytes) => {
                    prop_assert_eq!(read.next(), Some(Ok((*number, Value::Bytes(bytes)))));
                    counted += bytes_len(*number, bytes.len());
                }
            }
        }
        prop_assert_eq!(read.next(), None);
        prop_assert_eq!(counted, len);
    }

    #[test]
    fn a_short_slice_is_reported_and_never_passed(
        fields in prop::collection::vec(field(), 1..10),
        room in 0usize..3000,
    ) {
        let mut whole = vec![0; 10 * 330];
        let mut writer = Writer::new(&mut whole);
        write(&mut writer, &fields);
        let len = writer.finish().unwrap();

        let mut short = vec![0; room];
        let mut writer = Writer::new(&mut short);
        write(&mut writer, &fields);
        match writer.finish() {
            Ok(written) => prop_assert_eq!(&short[..written], &whole[..len]),
            Err(Overflow) => prop_assert!(room < len),
        }
    }

    #[test]
    fn any_bytes_are_read_to_an_end(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
        prop_assert!(Reader::new(&bytes).count() <= bytes.len());
        prop_assert!(Packed::new(&bytes).count() <= bytes.len());
    }

    #[test]
    fn packed_numbers_are_read(numbers in prop::collection::vec(any::<u64>(), 0..50)) {
        let mut buffer = vec![0; 500];
        let mut writer = Writer::new(&mut buffer);
        for &number in &numbers {
            writer.varint(number);
        }
        let len = writer.finish().unwrap();
        prop_assert_eq!(len, numbers.iter().map(|&number| varint_len(number)).sum::<usize>());
        let read: Result<Vec<_>, _> = Packed::new(&buffer[..len]).collect();
        prop_assert_eq!(read, Ok(numbers));
    }
}

#[test]
fn what_is_not_a_field_is_malformed() {
    for bytes in [
        &[0x00, 0x01][..],                                                   // field 0
        &[0x08],                                                             // no value
        &[0x08, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x02], // more than 64 bits
        &[0x0a, 0x05, 1, 2],                                                 // longer than the message
        &[0x0a, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01], // longer than memory
        &[0x0b],                                                             // a group
        &[0x0e],                                                             // no wire type
        &[0x80, 0x80, 0x80, 0x80, 0x80, 0x01, 0x00],                         // a tag of more than 32 bits
    ] {
        let mut read = Reader::new(bytes);
        assert_eq!(read.next(), Some(Err(Malformed)), "{bytes:02x?}");
        assert_eq!(read.next(), None);
    }
}

#[test]
fn fixed_numbers_are_read() {
    let bytes = [0x09, 1, 0, 0, 0, 0, 0, 0, 0, 0x15, 2, 0, 0, 0];
    let fields: Vec<_> = Reader::new(&bytes).collect();
    assert_eq!(fields, [Ok((1, Value::Fixed64(1))), Ok((2, Value::Fixed32(2)))]);
}
