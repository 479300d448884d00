//! A way over TCP between two parts that can be cut: what a network does to them, without one.
//!
//! The far end is connected to once a connection is accepted, so a far end that is dead looks like one that resets. Put it only
//! before parts that live. A cut that loses all packets would let no connection be made; here the kernel makes it, and no byte follows.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::sleep;

/// What is done to a way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cut {
    /// No byte passes either way; connections stay. What was sent arrives when it is mended.
    Silent,
    /// Connections are reset, further ones at once.
    Reset,
    /// Bytes arrive so much later, either way.
    Late(Duration),
}

/// Cuts that hold now, each for who comes from this address or for all.
type Cuts = Vec<(Option<IpAddr>, Cut)>;

/// A listener on 127.0.0.1 that passes all on to one address.
#[derive(Debug)]
pub struct Relay {
    address: SocketAddr,
    cuts: watch::Sender<Cuts>,
    hindered: Arc<AtomicUsize>,
    task: AbortHandle,
}

impl Relay {
    /// Starts one to this address, which need not listen yet.
    pub async fn start(to: SocketAddr) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.expect("a free port");
        let address = listener.local_addr().expect("its address");
        let (cuts, seen) = watch::channel(Cuts::new());
        let hindered = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&hindered);
        let accept = async move {
            let mut connections = JoinSet::new();
            loop {
                tokio::select! {
                    Some(_) = connections.join_next() => {}
                    accepted = listener.accept() => {
                        let (near, peer) = accepted.expect("a connection");
                        let way = Way { from: peer.ip(), cuts: seen.clone(), hindered: Arc::clone(&count) };
                        connections.spawn(pass(near, to, way));
                    }
                }
            }
        };
        Self { address, cuts, hindered, task: tokio::spawn(accept).abort_handle() }
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Cuts the way of those who come from this address, or of all.
    pub fn cut(&self, from: Option<IpAddr>, cut: Cut) {
        self.cuts.send_modify(|cuts| cuts.push((from, cut)));
    }

    /// How often a cut was in something's way: bytes were held or late, a connection was reset.
    pub fn hindered(&self) -> usize {
        self.hindered.load(Ordering::Relaxed)
    }

    /// Mends it for all.
    pub fn mend(&self) {
        self.cuts.send_modify(Vec::clear);
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// What one connection sees of the cuts.
#[derive(Clone)]
struct Way {
    from: IpAddr,
    cuts: watch::Receiver<Cuts>,
    hindered: Arc<AtomicUsize>,
}

impl Way {
    fn count(&self) {
        self.hindered.fetch_add(1, Ordering::Relaxed);
    }

    /// The cut that holds for it now.
    fn cut(&self) -> Option<Cut> {
        Self::of(&self.cuts.borrow(), self.from)
    }

    fn of(cuts: &Cuts, from: IpAddr) -> Option<Cut> {
        cuts.iter().find(|(source, _)| source.is_none_or(|source| source == from)).map(|(_, cut)| *cut)
    }

    /// Waits until its cut is as wanted. Never returns once the relay is gone.
    async fn until(&mut self, wanted: impl Fn(Option<Cut>) -> bool) -> Option<Cut> {
        let from = self.from;
        let of = |cuts: &Cuts| Self::of(cuts, from);
        let found = self.cuts.wait_for(|cuts| wanted(of(cuts))).await.map(|cuts| of(&cuts));
        match found {
            Ok(cut) => cut,
            Err(_) => std::future::pending().await,
        }
    }
}

async fn pass(mut near: TcpStream, to: SocketAddr, mut way: Way) {
    let mut ways = [way.clone(), way.clone()];
    let both = async {
        ways[0].until(|cut| cut != Some(Cut::Silent)).await;
        let Ok(mut far) = TcpStream::connect(to).await else { return };
        // Small answers must not wait for an acknowledgement.
        let _ = (near.set_nodelay(true), far.set_nodelay(true));
        let ((near_in, near_out), (far_in, far_out)) = (near.split(), far.split());
        let [there, back] = ways.each_mut();
        // One side that ends ends both: neither Envoy nor the service uses half of a connection.
        tokio::select! {
            () = carry(near_in, far_out, there) => {}
            () = carry(far_in, near_out, back) => {}
        }
    };
    let is_reset = tokio::select! {
        () = both => false,
        _ = way.until(|cut| cut == Some(Cut::Reset)) => true,
    };
    if is_reset {
        way.count();
        // It has gone already, or is reset now.
        let _ = near.set_zero_linger();
    }
}

async fn carry(mut from: impl AsyncRead + Unpin, mut to: impl AsyncWrite + Unpin, way: &mut Way) {
    let mut buffer = vec![0; 16 * 1024];
    while let Ok(count @ 1..) = from.read(&mut buffer).await {
        if way.cut().is_some() {
            way.count();
        }
        if let Some(Cut::Late(time)) = way.until(|cut| cut != Some(Cut::Silent)).await {
            sleep(time).await;
            way.until(|cut| cut != Some(Cut::Silent)).await;
        }
        if to.write_all(&buffer[..count]).await.is_err() {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use tokio::net::TcpSocket;
    use tokio::time::timeout;

    use super::*;

    const SOON: Duration = Duration::from_secs(5);
    const BRIEFLY: Duration = Duration::from_millis(200);

    /// Sends back what it gets.
    async fn echo() -> SocketAddr {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                tokio::spawn(async move {
                    let (mut from, mut to) = stream.split();
                    let _ = tokio::io::copy(&mut from, &mut to).await;
                });
            }
        });
        address
    }

    async fn connect(relay: &Relay, from: [u8; 4]) -> TcpStream {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind(SocketAddr::from((from, 0))).unwrap();
        socket.connect(relay.address()).await.unwrap()
    }

    async fn comes_back(stream: &mut TcpStream, within: Duration) -> Option<std::io::Result<u8>> {
        let _ = stream.write_all(b"x").await;
        timeout(within, stream.read_u8()).await.ok()
    }

    #[tokio::test]
    async fn nothing_passes_a_silent_cut_until_it_is_mended_and_others_pass_all_the_time() {
        let relay = Relay::start(echo().await).await;
        let [one, other] = [[127, 0, 0, 11], [127, 0, 0, 12]];
        let (mut cut, mut well) = (connect(&relay, one).await, connect(&relay, other).await);
        assert_eq!(comes_back(&mut cut, SOON).await.unwrap().unwrap(), b'x');

        relay.cut(Some(one.into()), Cut::Silent);

        assert_eq!(relay.hindered(), 0);
        assert!(comes_back(&mut cut, BRIEFLY).await.is_none());
        assert!(relay.hindered() > 0);
        let mut new = connect(&relay, one).await;
        assert!(comes_back(&mut new, BRIEFLY).await.is_none());
        assert_eq!(comes_back(&mut well, SOON).await.unwrap().unwrap(), b'x');
        relay.mend();
        for stream in [&mut cut, &mut new] {
            assert_eq!(timeout(SOON, stream.read_u8()).await.unwrap().unwrap(), b'x');
        }
    }

    #[tokio::test]
    async fn connections_are_reset_those_that_are_there_and_those_to_come() {
        let relay = Relay::start(echo().await).await;
        let mut open = connect(&relay, [127, 0, 0, 1]).await;
        assert_eq!(comes_back(&mut open, SOON).await.unwrap().unwrap(), b'x');

        relay.cut(None, Cut::Reset);

        assert!(timeout(SOON, open.read_u8()).await.unwrap().is_err());
        let mut new = connect(&relay, [127, 0, 0, 1]).await;
        assert!(timeout(SOON, new.read_u8()).await.unwrap().is_err());
    }

    #[tokio::test]
    async fn bytes_are_late_in_both_directions() {
        let relay = Relay::start(echo().await).await;
        let mut stream = connect(&relay, [127, 0, 0, 1]).await;

        relay.cut(None, Cut::Late(BRIEFLY));

        let sent = Instant::now();
        assert_eq!(comes_back(&mut stream, SOON).await.unwrap().unwrap(), b'x');
        assert!(sent.elapsed() >= BRIEFLY * 2);
    }
}
