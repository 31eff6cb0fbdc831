//! One session of a link: a QUIC connection, the data keys from its TLS exporter, and its control stream.

use std::time::Duration;

use quinn::{Connection, ConnectionError, RecvStream, SendStream};
use switch_core::ids::{PeerId, ReceiverIndex, Vni};
use switch_core::seal::{Cipher, KEY_MATERIAL_LEN, KeyMaterial, Opener, Role, Sealer};
use tokio::sync::mpsc;
use zeroize::Zeroize;

use super::control::{self, Control, ControlError, Hello};
use super::identity;
use super::peer::Message;
use super::sessions::SessionId;
use crate::dataplane::{Command, Handle};

/// What this node says of itself in every session.
#[derive(Clone, Debug)]
pub(super) struct LocalHello {
    pub(super) node: String,
    pub(super) boot: u64,
    pub(super) vnis: Vec<u32>,
}

/// A session both of whose ends can open what the other seals.
#[derive(Debug)]
pub(super) struct Established {
    pub(super) connection: Connection,
    pub(super) index: ReceiverIndex,
    pub(super) cipher: Cipher,
    pub(super) peer_boot: u64,
    pub(super) peer_vnis: Vec<Vni>,
    pub(super) to_peer: mpsc::Sender<Control>,
    pub(super) dialled: bool,
    pub(super) id: SessionId,
    control: (SendStream, RecvStream, mpsc::Receiver<Control>),
}

/// What a running session tells its link.
#[derive(Debug)]
pub(super) enum SessionEvent {
    /// The peer's networks changed.
    Membership(Vec<Vni>),
    /// The peer asks to let go of this session.
    Retire,
    /// The connection has ended.
    Closed(ConnectionError),
}

/// The parameters of a new session.
pub(super) struct Setup<'a> {
    pub(super) peer: PeerId,
    pub(super) id: SessionId,
    pub(super) dialled: bool,
    pub(super) hello: &'a LocalHello,
    pub(super) worker: &'a Handle,
}

impl Established {
    /// Exchanges hellos on a connection whose handshake is complete. The worker gets the opening key before the
    /// peer learns the index to use, and the sealing key once the peer said that it can open.
    pub(super) async fn new(connection: Connection, setup: Setup<'_>) -> Result<Established, SessionError> {
        let cipher = identity::agreed_cipher(&connection).ok_or(SessionError::NoCipher)?;
        let mut bytes = [0; KEY_MATERIAL_LEN];
        connection
            .export_keying_material(&mut bytes, EXPORTER_LABEL, b"")
            .map_err(|_| SessionError::Exporter)?;
        let material = KeyMaterial::new(bytes);
        bytes.zeroize();
        let role = if setup.dialled { Role::Initiator } else { Role::Responder };
        let index = ReceiverIndex(super::random_u64() as u32);
        let opener = Box::new(Opener::new(cipher, &material, role));
        setup.worker.send(Command::AddSession(index, setup.peer, opener));

        let exchanged = tokio::time::timeout(HELLO_TIMEOUT, exchange(&connection, index, &setup)).await;
        let (send, recv, hello) = match exchanged {
            Ok(Ok(exchanged)) => exchanged,
            failed => {
                setup.worker.send(Command::RemoveSession(index));
                // With TLS 1.3 the dialling end hears only now that its key was refused.
                if let Some(reason) = connection.close_reason() {
                    return Err(SessionError::Connection(reason));
                }
                connection.close(CLOSE_FAILED.into(), b"no hello");
                return Err(failed.map_or(SessionError::Timeout, |r| r.expect_err("Ok was matched above")));
            }
        };
        let receiver = ReceiverIndex(hello.receiver_index);
        let sealer = Sealer::new(cipher, &material, role, receiver, setup.id as u8, u64::MAX);
        setup.worker.send(Command::ArmSession(index, Box::new(sealer)));
        if hello.ecn {
            setup.worker.send(Command::CarryEcn(index));
        }
        let (to_peer, from_link) = mpsc::channel(16);
        Ok(Established {
            connection,
            index,
            cipher,
            peer_boot: hello.boot,
            peer_vnis: known_vnis(&hello.vnis),
            to_peer,
            dialled: setup.dialled,
            id: setup.id,
            control: (send, recv, from_link),
        })
    }

    /// The session, and the task that reads and writes its control stream until the connection ends.
    pub(super) fn into_parts(
        self,
        events: mpsc::Sender<Message>,
    ) -> (Live, impl Future<Output = ()> + Send + 'static) {
        let (send, recv, from_link) = self.control;
        let task = converse(self.connection.clone(), self.id, send, recv, from_link, events);
        let live = Live {
            connection: self.connection,
            index: self.index,
            cipher: self.cipher,
            peer_vnis: self.peer_vnis,
            to_peer: self.to_peer,
            since: std::time::Instant::now(),
        };
        (live, task)
    }
}

/// What the link keeps of a running session.
#[derive(Debug)]
pub(super) struct Live {
    pub(super) connection: Connection,
    pub(super) index: ReceiverIndex,
    pub(super) cipher: Cipher,
    pub(super) peer_vnis: Vec<Vni>,
    pub(super) to_peer: mpsc::Sender<Control>,
    pub(super) since: std::time::Instant,
}

async fn exchange(
    connection: &Connection,
    index: ReceiverIndex,
    setup: &Setup<'_>,
) -> Result<(SendStream, RecvStream, Hello), SessionError> {
    let LocalHello { node, boot, vnis } = setup.hello.clone();
    let hello = Control::Hello(Hello { node, boot, receiver_index: index.0, vnis, ecn: true });
    let (mut send, mut recv) =
        if setup.dialled { connection.open_bi().await } else { connection.accept_bi().await }
            .map_err(SessionError::Connection)?;
    control::write(&mut send, &hello).await?;
    match control::read(&mut recv).await? {
        Control::Hello(hello) => Ok((send, recv, hello)),
        Control::Networks { .. } | Control::Retire | Control::Unknown => Err(SessionError::NotHello),
    }
}

async fn converse(
    connection: Connection,
    id: SessionId,
    mut send: SendStream,
    recv: RecvStream,
    mut from_link: mpsc::Receiver<Control>,
    events: mpsc::Sender<Message>,
) {
    let writer = async {
        while let Some(message) = from_link.recv().await {
            if control::write(&mut send, &message).await.is_err() {
                break;
            }
        }
    };
    let reader = async {
        if let Err(e) = read_all(recv, id, &events).await {
            tracing::debug!(error = %e, "control stream");
            connection.close(CLOSE_FAILED.into(), b"control stream");
        }
    };
    let reason = tokio::select! {
        reason = connection.closed() => reason,
        ((), ()) = async { tokio::join!(writer, reader) } => connection.closed().await,
    };
    let _ = events.send(Message::Session(id, SessionEvent::Closed(reason))).await;
}

async fn read_all(
    mut recv: RecvStream,
    id: SessionId,
    events: &mpsc::Sender<Message>,
) -> Result<(), ControlError> {
    loop {
        let event = match control::read(&mut recv).await? {
            Control::Networks { vnis } => SessionEvent::Membership(known_vnis(&vnis)),
            Control::Retire => SessionEvent::Retire,
            Control::Hello(_) | Control::Unknown => continue,
        };
        if events.send(Message::Session(id, event)).await.is_err() {
            return Ok(());
        }
    }
}

fn known_vnis(vnis: &[u32]) -> Vec<Vni> {
    vnis.iter().filter_map(|vni| Vni::new(*vni).ok()).collect()
}

/// Which step of making a session failed.
#[derive(Debug, thiserror::Error)]
pub(super) enum SessionError {
    #[error("no cipher was agreed on")]
    NoCipher,
    #[error("the TLS exporter gave no keys")]
    Exporter,
    #[error("the peer said no hello within {} s", HELLO_TIMEOUT.as_secs())]
    Timeout,
    #[error("{}", super::explain(.0))]
    Connection(ConnectionError),
    #[error("control stream: {0}")]
    Control(#[from] ControlError),
    #[error("the peer's first message is no hello")]
    NotHello,
}

/// Application close codes of a session's connection.
pub(super) const CLOSE_DONE: u32 = 0;
pub(super) const CLOSE_FAILED: u32 = 1;
pub(super) const CLOSE_REFUSED: u32 = 2;
pub(super) const CLOSE_STOPPING: u32 = 3;
pub(super) const CLOSE_SILENT: u32 = 4;
pub(super) const CLOSE_IDLE: u32 = 5;

const EXPORTER_LABEL: &[u8] = b"EXPORTER-switchd-data";
const HELLO_TIMEOUT: Duration = Duration::from_secs(3);
