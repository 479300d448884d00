//! Once per request: have it decided, then learn from how its response begins.
//!
//! Request headers are read only until the request goes on: later they are gone.

use std::cell::RefCell;
use std::rc::Rc;

use berth_core::decision::Decision;
use berth_core::guard::Guarding;
use berth_core::proxy::Request;
use proxy_wasm::traits::{Context, HttpContext};
use proxy_wasm::types::Action;

use crate::effects;
use crate::worker::Worker;

/// The context of one request.
pub(crate) struct Stream {
    id: u32,
    worker: Option<Rc<Worker>>,
    request: Held,
}

/// Where the request is. Only one that had to wait is shared with the worker, which then fills in what was decided.
enum Held {
    Own(Request),
    Shared(Rc<RefCell<Request>>),
}

impl Context for Stream {}

impl HttpContext for Stream {
    fn on_http_request_headers(&mut self, _headers: usize, _end: bool) -> Action {
        let Some(worker) = &self.worker else {
            effects::guard_request(Guarding::Remove, false);
            return Action::Continue;
        };
        match worker.decide(self.id) {
            Ok(request) => {
                let goes_on = request.decision.as_ref().is_none_or(Decision::goes_on);
                self.request = Held::Own(request);
                if goes_on { Action::Continue } else { Action::Pause }
            }
            Err(request) => {
                self.request = Held::Shared(request);
                Action::Pause
            }
        }
    }

    fn on_http_response_headers(&mut self, _headers: usize, _end: bool) -> Action {
        let Some(worker) = self.worker.clone() else {
            effects::guard_response(Guarding::Remove, false);
            return Action::Continue;
        };
        let id = self.id;
        let is_held = self.request(|request| worker.begin_response(id, request));
        if is_held { Action::Pause } else { Action::Continue }
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        if let Some(worker) = self.worker.clone() {
            let id = self.id;
            self.request(|request| worker.handle_gone(id, request));
        }
    }
}

impl Stream {
    pub(crate) fn new(id: u32, worker: Option<Rc<Worker>>) -> Self {
        Self { id, worker, request: Held::Own(Request::default()) }
    }

    fn request<T>(&mut self, act: impl FnOnce(&mut Request) -> T) -> T {
        match &mut self.request {
            Held::Own(request) => act(request),
            Held::Shared(request) => act(&mut request.borrow_mut()),
        }
    }
}
