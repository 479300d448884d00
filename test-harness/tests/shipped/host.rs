//! The shipped module in an interpreter, with a host that counts its calls: what a request costs without a clock.
//!
//! It answers as Envoy does (proxy-wasm ABI 0.2.1), as far as the calls of a request need it; nothing here tests what Envoy
//! does with them. Calls to other services are taken and never answered, except by the test.

use std::collections::BTreeMap;

use serde_json::Value;
use wasmi::{Caller, Engine, Extern, Func, Instance, Linker, Memory, Module, Store, Val};

const ROOT: i32 = 1;
const NOT_FOUND: i32 = 1;
const CAS_MISMATCH: i32 = 8;

const REQUEST: i32 = 0;
const RESPONSE: i32 = 2;
const CALL_RESPONSE: i32 = 6;

const CALL_BODY: i32 = 4;
const CONFIGURATION: i32 = 7;

type Headers = Vec<(String, String)>;

/// One VM with the filter in it.
pub(crate) struct Vm {
    store: Store<Host>,
    instance: Instance,
    next_context: i32,
}

/// What the host knows.
#[derive(Default)]
struct Host {
    calls: Vec<String>,
    configuration: Vec<u8>,
    now: u64,
    headers: BTreeMap<i32, Headers>,
    properties: BTreeMap<String, Vec<u8>>,
    shared: BTreeMap<String, (Vec<u8>, u32)>,
    metrics: i32,
    /// Calls to other services: token, path and body.
    sent: Vec<(i32, String, Value)>,
    tokens: i32,
    /// What hostcalls are about.
    effective: i32,
    /// Whose each call to another service is.
    owners: BTreeMap<i32, i32>,
    answer: Vec<u8>,
}

/// One request on its way.
pub(crate) struct Stream(i32);

impl Vm {
    /// A VM with this plugin configuration, a second after its start.
    pub(crate) fn start(configuration: &Value) -> Self {
        let engine = Engine::default();
        let wasm = std::fs::read(berth_harness::root().join("target/berth.wasm")).expect("`make wasm`");
        let module = Module::new(&engine, &wasm).unwrap();
        let configuration = configuration.to_string().into_bytes();
        let host = Host { configuration, now: 1_000_000_000_000_000_000, ..Host::default() };
        let mut store = Store::new(&engine, host);
        let mut linker = Linker::new(&engine);
        for import in module.imports() {
            let name = import.name().to_owned();
            let ty = import.ty().func().expect("a function").clone();
            let call = move |caller: Caller<'_, Host>, given: &[Val], result: &mut [Val]| {
                let given: Vec<i32> = given.iter().map(|value| value.i32().unwrap_or(0)).collect();
                let status = Call { caller, given }.answer(&name);
                if let Some(result) = result.first_mut() {
                    *result = Val::I32(status);
                }
                Ok(())
            };
            let function = Func::new(&mut store, ty, call);
            linker.define(import.module(), import.name(), function).unwrap();
        }
        let instance = linker.instantiate_and_start(&mut store, &module).unwrap();
        let mut vm = Self { store, instance, next_context: ROOT + 1 };
        vm.call("_initialize", &[]);
        vm.call("proxy_on_context_create", &[ROOT, 0]);
        vm.call("proxy_on_vm_start", &[ROOT, 0]);
        let size = vm.store.data().configuration.len();
        assert_eq!(vm.call("proxy_on_configure", &[ROOT, i32::try_from(size).unwrap()]), Some(1));
        for _ in 0..10 {
            vm.tick();
        }
        vm
    }

    /// A tenth of a second passes.
    pub(crate) fn tick(&mut self) {
        let host = self.store.data_mut();
        (host.now, host.effective) = (host.now + 100_000_000, ROOT);
        self.call("proxy_on_tick", &[ROOT]);
    }

    /// A request comes. Returns the host calls that it made.
    pub(crate) fn request(&mut self, headers: &[(&str, &str)]) -> (Stream, Vec<String>) {
        let stream = self.next_context;
        self.next_context += 1;
        self.set_headers(REQUEST, headers);
        let calls = self.counted(|vm| {
            vm.call("proxy_on_context_create", &[stream, ROOT]);
            vm.store.data_mut().effective = stream;
            vm.call("proxy_on_request_headers", &[stream, i32::try_from(headers.len()).unwrap(), 1]);
        });
        (Stream(stream), calls)
    }

    /// Its response begins, at this node, and it ends.
    pub(crate) fn respond(
        &mut self,
        Stream(stream): Stream,
        node: &str,
        headers: &[(&str, &str)],
    ) -> Vec<String> {
        self.set_headers(RESPONSE, headers);
        let host = self.store.data_mut();
        host.properties.insert("upstream.address".to_owned(), node.as_bytes().to_vec());
        self.counted(|vm| {
            vm.call("proxy_on_response_headers", &[stream, i32::try_from(headers.len()).unwrap(), 1]);
            if vm.instance.get_func(&vm.store, "proxy_on_log").is_some() {
                vm.call("proxy_on_log", &[stream]);
            }
            vm.call("proxy_on_done", &[stream]);
            vm.call("proxy_on_delete", &[stream]);
        })
    }

    /// The request ends before its response begins. Envoy cancels the calls that are its own, and says nothing.
    pub(crate) fn reset(&mut self, Stream(stream): Stream) {
        self.store.data_mut().owners.retain(|_, owner| *owner != stream);
        self.call("proxy_on_done", &[stream]);
        self.call("proxy_on_delete", &[stream]);
    }

    /// How many calls to other services are under way.
    pub(crate) fn under_way(&self) -> usize {
        self.store.data().owners.len()
    }

    /// From here on calls get tokens from the first on again, as after 2³² of them.
    pub(crate) fn wrap_tokens(&mut self) {
        self.store.data_mut().tokens = 0;
    }

    /// Every call that is under way fails.
    pub(crate) fn fail_calls(&mut self) {
        for (token, owner) in std::mem::take(&mut self.store.data_mut().owners) {
            self.call("proxy_on_http_call_response", &[owner, token, 0, 0, 0]);
        }
    }

    /// The calls to other services since this was last asked: token, path and body.
    pub(crate) fn sent(&mut self) -> Vec<(i32, String, Value)> {
        std::mem::take(&mut self.store.data_mut().sent)
    }

    /// The request header of this name, as the node would see it.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        let headers = self.store.data().headers.get(&REQUEST)?;
        headers.iter().find(|(found, _)| found == name).map(|(_, value)| value.as_str())
    }

    /// How much memory the module has, in pages.
    pub(crate) fn memory_size(&self) -> u64 {
        self.instance.get_memory(&self.store, "memory").expect("memory").size(&self.store)
    }

    /// A call is answered.
    pub(crate) fn answer(&mut self, token: i32, body: &Value) {
        let owner = self.store.data_mut().owners.remove(&token).expect("a call that is under way");
        self.set_headers(CALL_RESPONSE, &[(":status", "200")]);
        self.store.data_mut().answer = body.to_string().into_bytes();
        let size = self.store.data().answer.len();
        self.call("proxy_on_http_call_response", &[owner, token, 1, i32::try_from(size).unwrap(), 0]);
    }

    fn set_headers(&mut self, map: i32, headers: &[(&str, &str)]) {
        let owned = headers.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        self.store.data_mut().headers.insert(map, owned.collect());
    }

    fn counted(&mut self, act: impl FnOnce(&mut Self)) -> Vec<String> {
        self.store.data_mut().calls.clear();
        act(self);
        std::mem::take(&mut self.store.data_mut().calls)
    }

    fn call(&mut self, name: &str, given: &[i32]) -> Option<i32> {
        let function = self.instance.get_func(&self.store, name).unwrap_or_else(|| panic!("no {name}"));
        let given: Vec<Val> = given.iter().map(|value| Val::I32(*value)).collect();
        let mut result = vec![Val::I32(0); function.ty(&self.store).results().len()];
        function.call(&mut self.store, &given, &mut result).unwrap_or_else(|trap| panic!("{name}: {trap}"));
        result.first().and_then(Val::i32)
    }
}

/// One host call.
struct Call<'c> {
    caller: Caller<'c, Host>,
    given: Vec<i32>,
}

impl Call<'_> {
    /// Its status.
    fn answer(&mut self, name: &str) -> i32 {
        let short = name.trim_start_matches("proxy_");
        match short {
            "get_current_time_nanoseconds" => {
                let now = self.caller.data().now;
                self.write(0, &now.to_le_bytes());
                return 0;
            }
            "fd_write" => {
                self.write(3, &[0; 4]);
                return 0;
            }
            "random_get" => {
                let bytes: Vec<u8> = (0..self.given[1]).map(|at| (at * 37 % 251) as u8).collect();
                self.write(0, &bytes);
                return 0;
            }
            "environ_sizes_get" => {
                self.write(0, &[0; 4]);
                self.write(1, &[0; 4]);
                return 0;
            }
            "environ_get" => return 0,
            "log" => {
                println!("{}", self.text(1));
                return 0;
            }
            _ => {}
        }
        let (call, status) = self.answer_counted(short);
        self.caller.data_mut().calls.push(call);
        status
    }

    /// How a call is listed, and its status.
    fn answer_counted(&mut self, name: &str) -> (String, i32) {
        let mut what = String::new();
        let status = match name {
            "get_buffer_bytes" => {
                let host = self.caller.data();
                let bytes = match self.given[0] {
                    CONFIGURATION => host.configuration.clone(),
                    CALL_BODY => host.answer.clone(),
                    other => panic!("buffer {other}"),
                };
                self.give(3, Some(bytes))
            }
            "get_header_map_value" => {
                what = self.text(1);
                let found = self.headers().iter().find(|(name, _)| *name == what);
                let found = found.map(|(_, value)| value.clone().into_bytes());
                self.give(3, found)
            }
            "get_header_map_pairs" => {
                let pairs = serialized(self.headers());
                self.give(1, Some(pairs))
            }
            "replace_header_map_value" | "add_header_map_value" | "remove_header_map_value" => {
                what = self.text(1);
                let value = if name.starts_with("remove") { None } else { Some(self.text(3)) };
                let headers = self.caller.data_mut().headers.entry(self.given[0]).or_default();
                if !name.starts_with("add") {
                    headers.retain(|(found, _)| *found != what);
                }
                headers.extend(value.map(|value| (what.clone(), value)));
                0
            }
            "set_effective_context" => {
                self.caller.data_mut().effective = self.given[0];
                0
            }
            "get_property" => {
                what = self.text(0).replace('\0', ".");
                let found = self.caller.data().properties.get(&what).cloned();
                self.give(2, found)
            }
            "get_shared_data" => {
                let found = self.caller.data().shared.get(&self.text(0)).cloned();
                let version = found.as_ref().map_or(0, |(_, version)| *version);
                self.write(4, &version.to_le_bytes());
                self.give(2, found.map(|(value, _)| value))
            }
            "set_shared_data" => {
                let (key, value, version) = (self.text(0), self.bytes(2), self.given[4] as u32);
                let shared = &mut self.caller.data_mut().shared;
                let known = shared.get(&key).map(|(_, version)| *version);
                if version != 0 && known.is_some_and(|known| known != version) {
                    CAS_MISMATCH
                } else {
                    shared.insert(key, (value, known.unwrap_or(0) + 1));
                    0
                }
            }
            "define_metric" => {
                self.caller.data_mut().metrics += 1;
                let metric = self.caller.data().metrics;
                self.write(3, &metric.to_le_bytes());
                0
            }
            "http_call" => {
                let path = value_of(&self.bytes(2), ":path");
                what = path.split('?').next().unwrap_or_default().to_owned();
                let body = serde_json::from_slice(&self.bytes(4)).unwrap_or_default();
                let host = self.caller.data_mut();
                host.tokens += 1;
                let token = host.tokens;
                assert_eq!(host.owners.insert(token, host.effective), None, "as Envoy does");
                host.sent.push((token, path, body));
                self.write(9, &token.to_le_bytes());
                0
            }
            _ => 0,
        };
        (if what.is_empty() { name.to_owned() } else { format!("{name} {what}") }, status)
    }

    fn headers(&self) -> &[(String, String)] {
        self.caller.data().headers.get(&self.given[0]).map_or(&[], Vec::as_slice)
    }

    fn memory(&self) -> Memory {
        self.caller.get_export("memory").and_then(Extern::into_memory).expect("memory")
    }

    /// What the parameter at this place points to; its length is the next one.
    fn bytes(&self, at: usize) -> Vec<u8> {
        let (from, length) = (self.given[at] as usize, self.given[at + 1] as usize);
        self.memory().data(&self.caller)[from..from + length].to_vec()
    }

    fn text(&self, at: usize) -> String {
        String::from_utf8(self.bytes(at)).expect("UTF-8")
    }

    /// Writes where the parameter at this place points to.
    fn write(&mut self, at: usize, bytes: &[u8]) {
        let to = self.given[at] as usize;
        self.memory().write(&mut self.caller, to, bytes).unwrap();
    }

    /// Gives the module bytes of its own; pointer and length go where the parameters at this place and the next say.
    fn give(&mut self, at: usize, bytes: Option<Vec<u8>>) -> i32 {
        let Some(bytes) = bytes else { return NOT_FOUND };
        let length = i32::try_from(bytes.len()).unwrap();
        let allocate = self.caller.get_export("proxy_on_memory_allocate").and_then(Extern::into_func);
        let mut address = [Val::I32(0)];
        allocate.expect("an allocator").call(&mut self.caller, &[Val::I32(length)], &mut address).unwrap();
        let address = address[0].i32().unwrap();
        self.memory().write(&mut self.caller, address as usize, &bytes).unwrap();
        self.write(at, &address.to_le_bytes());
        self.write(at + 1, &length.to_le_bytes());
        0
    }
}

/// A list of headers as it crosses the border.
fn serialized(headers: &[(String, String)]) -> Vec<u8> {
    let number = |length: usize| u32::try_from(length).unwrap().to_le_bytes();
    let sizes = headers.iter().flat_map(|(name, value)| [number(name.len()), number(value.len())]);
    let texts =
        headers.iter().flat_map(|(name, value)| [name, "\0", value, "\0"].map(str::as_bytes).concat());
    number(headers.len()).into_iter().chain(sizes.flatten()).chain(texts).collect()
}

/// The value of a header in such a list.
fn value_of(list: &[u8], name: &str) -> String {
    let number = |at: usize| u32::from_le_bytes(list[at..at + 4].try_into().unwrap()) as usize;
    let count = number(0);
    let mut at = 4 + 8 * count;
    for header in 0..count {
        let [name_length, length] = [number(4 + 8 * header), number(8 + 8 * header)];
        let text = |at: usize, length: usize| String::from_utf8_lossy(&list[at..at + length]).into_owned();
        if text(at, name_length) == name {
            return text(at + name_length + 1, length);
        }
        at += name_length + length + 2;
    }
    String::new()
}
