//! The shipped filter, changed so that a request with very many headers makes its VM trap: nothing that a client can send does so to
//! the filter itself.

/// More than other requests here have, and fewer than Envoy lets pass (100).
pub(crate) const HEADERS: u8 = 40;

const FUNCTION: &str = "proxy_on_request_headers";
/// Ids of sections, see the WebAssembly specification, "Modules".
const IMPORTS: u8 = 2;
const FUNCTIONS: u8 = 3;
const EXPORTS: u8 = 7;
const CODE: u8 = 10;

/// The module with one more function, exported in the place of its [`FUNCTION`]: it traps on more than [`HEADERS`] headers, and else
/// calls that.
///
/// # Panics
/// If this is no module, or one that does not export the function.
pub(crate) fn trapping(module: &[u8]) -> Vec<u8> {
    let (header, rest) = module.split_at(8);
    assert_eq!(header, b"\0asm\x01\0\0\0");
    let mut sections = sections(rest);

    let imports = of(&mut sections, IMPORTS).map_or(0, |section| imported_functions(section));
    let (export, original) = export(of(&mut sections, EXPORTS).expect("exports"));
    let functions = of(&mut sections, FUNCTIONS).expect("functions");
    let (own, kind) = {
        let mut reader = Reader(functions);
        let count = reader.number();
        let kinds: Vec<u32> = (0..count).map(|_| reader.number()).collect();
        (imports + count, kinds[(original - imports) as usize])
    };
    append(functions, &number(kind));

    #[rustfmt::skip]
    let body = [
        &[0x00][..],                                  // no locals
        &[0x20, 1, 0x41, HEADERS, 0x4b],              // the number of headers > HEADERS
        &[0x04, 0x40, 0x00, 0x0b],                    // if so: unreachable
        &[0x20, 0, 0x20, 1, 0x20, 2, 0x10],           // call with the same arguments
        &number(original),
        &[0x0b],
    ]
    .concat();
    append(
        of(&mut sections, CODE).expect("code"),
        &[number(u32::try_from(body.len()).unwrap()), body].concat(),
    );

    let exports = of(&mut sections, EXPORTS).expect("exports");
    exports.splice(export, number(own));

    let mut changed = header.to_vec();
    for (id, content) in sections {
        changed.push(id);
        changed.extend(number(u32::try_from(content.len()).unwrap()));
        changed.extend(content);
    }
    changed
}

type Sections = Vec<(u8, Vec<u8>)>;

fn sections(bytes: &[u8]) -> Sections {
    let mut reader = Reader(bytes);
    let mut sections = Vec::new();
    while !reader.0.is_empty() {
        let id = reader.byte();
        let size = reader.number() as usize;
        sections.push((id, reader.take(size).to_vec()));
    }
    sections
}

fn of(sections: &mut Sections, id: u8) -> Option<&mut Vec<u8>> {
    sections.iter_mut().find(|(found, _)| *found == id).map(|(_, content)| content)
}

fn imported_functions(section: &[u8]) -> u32 {
    let mut reader = Reader(section);
    let count = reader.number();
    for _ in 0..count {
        reader.name();
        reader.name();
        assert_eq!(reader.byte(), 0, "only functions are imported");
        reader.number();
    }
    count
}

/// Where the export has its function's index, and that index.
fn export(section: &[u8]) -> (std::ops::Range<usize>, u32) {
    let mut reader = Reader(section);
    for _ in 0..reader.number() {
        let name = reader.name().to_vec();
        reader.byte();
        let start = section.len() - reader.0.len();
        let index = reader.number();
        if name == FUNCTION.as_bytes() {
            return (start..section.len() - reader.0.len(), index);
        }
    }
    panic!("the module exports no {FUNCTION}");
}

/// Puts an element behind the last one of a section's list.
fn append(section: &mut Vec<u8>, element: &[u8]) {
    let mut reader = Reader(section);
    let count = reader.number();
    let elements = reader.0.to_vec();
    *section = [&number(count + 1)[..], &elements, element].concat();
}

/// A number in LEB128.
fn number(mut value: u32) -> Vec<u8> {
    let mut bytes = Vec::new();
    while value >= 0x80 {
        bytes.push((value & 0x7f) as u8 | 0x80);
        value >>= 7;
    }
    bytes.push(value as u8);
    bytes
}

struct Reader<'b>(&'b [u8]);

impl<'b> Reader<'b> {
    fn take(&mut self, count: usize) -> &'b [u8] {
        let (taken, rest) = self.0.split_at(count);
        self.0 = rest;
        taken
    }

    fn byte(&mut self) -> u8 {
        self.take(1)[0]
    }

    fn number(&mut self) -> u32 {
        let mut value = 0;
        for shift in (0..).step_by(7) {
            let byte = self.byte();
            value |= u32::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                break;
            }
        }
        value
    }

    fn name(&mut self) -> &'b [u8] {
        let size = self.number() as usize;
        self.take(size)
    }
}
