//! Connections on which calls wait for a replica, each one at a time.

use std::sync::{Arc, Mutex};

use tokio::sync::{Semaphore, SemaphorePermit};

use super::connection::Connection;
use crate::lock::lock;
use crate::store::StoreError;

/// Connections on which calls wait for a replica, each one at a time.
pub(super) struct Waiting {
    places: Semaphore,
    free: Mutex<Vec<Arc<Connection>>>,
}

pub(super) struct Place<'w> {
    waiting: &'w Waiting,
    pub(super) connection: Arc<Connection>,
    _permit: SemaphorePermit<'w>,
}

impl Waiting {
    pub(super) fn new(connections: Vec<Arc<Connection>>) -> Self {
        Self { places: Semaphore::new(connections.len()), free: Mutex::new(connections) }
    }

    pub(super) async fn place(&self) -> Result<Place<'_>, StoreError> {
        let none = |_| StoreError::Unreachable("no connection".to_owned());
        let permit = self.places.acquire().await.map_err(none)?;
        self.with(permit).ok_or(StoreError::Suspended)
    }

    /// A place, if one is free now.
    pub(super) fn free_place(&self) -> Option<Place<'_>> {
        self.with(self.places.try_acquire().ok()?)
    }

    fn with<'w>(&'w self, permit: SemaphorePermit<'w>) -> Option<Place<'w>> {
        let connection = lock(&self.free).pop()?;
        Some(Place { waiting: self, connection, _permit: permit })
    }
}

impl Drop for Place<'_> {
    // Before the permit: who gets that finds a connection.
    fn drop(&mut self) {
        lock(&self.waiting.free).push(Arc::clone(&self.connection));
    }
}
