//! Sockets for the DNS library that pass on what can be an answer, and no more of it than was asked for.
//!
//! The library makes room for as many questions as the head of a message claims, 6 MiB where it claims 65,535, and
//! reads a connection for as long as something comes.

use std::future::Future;
use std::io::{self, IoSlice};
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use futures_util::io::{AsyncRead, AsyncWrite};
use hickory_resolver::net::runtime::{
    DnsTcpStream, DnsUdpSocket, RuntimeProvider, TokioHandle, TokioRuntimeProvider, TokioTime,
};

/// Connections by Tokio, bounded.
#[derive(Clone, Default)]
pub(super) struct Sockets(TokioRuntimeProvider);

type Opening<T> = Pin<Box<dyn Send + Future<Output = io::Result<T>>>>;

impl RuntimeProvider for Sockets {
    type Handle = TokioHandle;
    type Timer = TokioTime;
    type Udp = Datagrams<<TokioRuntimeProvider as RuntimeProvider>::Udp>;
    type Tcp = Answers<<TokioRuntimeProvider as RuntimeProvider>::Tcp>;

    fn create_handle(&self) -> TokioHandle {
        self.0.create_handle()
    }

    fn connect_tcp(
        &self,
        server: SocketAddr,
        from: Option<SocketAddr>,
        deadline: Option<Duration>,
    ) -> Opening<Self::Tcp> {
        let connecting = self.0.connect_tcp(server, from, deadline);
        Box::pin(async move { Ok(Answers::of(connecting.await?)) })
    }

    fn bind_udp(&self, from: SocketAddr, server: SocketAddr) -> Opening<Self::Udp> {
        let binding = self.0.bind_udp(from, server);
        Box::pin(async move { Ok(Datagrams(binding.await?)) })
    }
}

/// QDCOUNT, the number of questions, is 0 or 1 in an answer (RFC 9619 section 4); here are its place and its octets
/// (RFC 1035 section 4.1.1).
const QUESTIONS: std::ops::Range<usize> = 4..6;

fn is_answer(questions: [u8; 2]) -> bool {
    u16::from_be_bytes(questions) <= 1
}

/// Passes over messages that are no answers.
pub(super) struct Datagrams<T>(T);

impl<T: DnsUdpSocket> DnsUdpSocket for Datagrams<T> {
    type Time = T::Time;

    fn poll_recv_from(&self, context: &mut Context<'_>, buffer: &mut [u8]) -> Poll<io::Result<(usize, SocketAddr)>> {
        loop {
            let (size, from) = ready!(self.0.poll_recv_from(context, buffer))?;
            let message = buffer.get(..size).unwrap_or_default();
            if let Some(&[high, low]) = message.get(QUESTIONS)
                && is_answer([high, low])
            {
                return Poll::Ready(Ok((size, from)));
            }
        }
    }

    fn poll_send_to(&self, context: &mut Context<'_>, buffer: &[u8], to: SocketAddr) -> Poll<io::Result<usize>> {
        self.0.poll_send_to(context, buffer, to)
    }
}

/// A connection that ends once more comes than one message for each question, or something else than answers.
pub(super) struct Answers<T> {
    stream: T,
    flow: Flow,
}

impl<T> Answers<T> {
    fn of(stream: T) -> Self {
        Self { stream, flow: Flow::default() }
    }
}

impl<T: DnsTcpStream> DnsTcpStream for Answers<T> {
    type Time = T::Time;
}

impl<T: AsyncRead + Unpin> AsyncRead for Answers<T> {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut [u8]) -> Poll<io::Result<usize>> {
        let size = ready!(Pin::new(&mut self.stream).poll_read(context, buffer))?;
        self.flow.comes(buffer.get(..size).unwrap_or_default())?;
        Poll::Ready(Ok(size))
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Answers<T> {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &[u8]) -> Poll<io::Result<usize>> {
        let size = ready!(Pin::new(&mut self.stream).poll_write(context, buffer))?;
        self.flow.goes(&[buffer], size);
        Poll::Ready(Ok(size))
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffers: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let size = ready!(Pin::new(&mut self.stream).poll_write_vectored(context, buffers))?;
        let buffers: Vec<&[u8]> = buffers.iter().map(|buffer| &**buffer).collect();
        self.flow.goes(&buffers, size);
        Poll::Ready(Ok(size))
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_close(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_close(context)
    }
}

/// Messages in both directions, each behind its length (RFC 1035 section 4.2.2).
#[derive(Debug, Default)]
struct Flow {
    asked: Frames,
    answered: Frames,
}

impl Flow {
    /// What was sent: so many octets of these buffers.
    fn goes(&mut self, buffers: &[&[u8]], size: usize) {
        buffers.iter().flat_map(|buffer| buffer.iter()).take(size).for_each(|octet| self.asked.octet(*octet));
    }

    fn comes(&mut self, octets: &[u8]) -> io::Result<()> {
        let refused = |why| Err(io::Error::new(io::ErrorKind::InvalidData, why));
        for octet in octets {
            self.answered.octet(*octet);
            if self.answered.begun > self.asked.begun {
                return refused("more answers than questions");
            }
            if !is_answer(self.answered.questions) {
                return refused("an answer to many questions");
            }
        }
        Ok(())
    }
}

#[derive(Debug, Default)]
struct Frames {
    /// How many messages have begun.
    begun: usize,
    /// In the current one, from its length on.
    at: usize,
    length: [u8; 2],
    questions: [u8; 2],
}

impl Frames {
    fn octet(&mut self, octet: u8) {
        if self.at == 0 {
            *self = Self { begun: self.begun + 1, ..Self::default() };
        }
        match self.at.checked_sub(2) {
            None => self.length[self.at] = octet,
            Some(at) if QUESTIONS.contains(&at) => self.questions[at - QUESTIONS.start] = octet,
            Some(_) => {}
        }
        self.at += 1;
        if self.at >= 2 && self.at == 2 + usize::from(u16::from_be_bytes(self.length)) {
            self.at = 0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(questions: u16, size: usize) -> Vec<u8> {
        let mut message = vec![7; size];
        message[QUESTIONS].copy_from_slice(&questions.to_be_bytes());
        [&u16::try_from(size).unwrap().to_be_bytes()[..], &message].concat()
    }

    fn send(flow: &mut Flow, count: usize) {
        for question in std::iter::repeat_n(message(1, 40), count) {
            // In parts, as the network takes it.
            flow.goes(&[&question[..2], &question[2..]], 10);
            flow.goes(&[&question[10..]], 32);
        }
    }

    #[test]
    fn an_answer_for_each_question_passes() {
        let mut flow = Flow::default();
        send(&mut flow, 2);
        for size in [12, 65_535] {
            message(1, size).chunks(7).for_each(|part| flow.comes(part).unwrap());
        }
        assert!(flow.comes(&message(1, 12)).is_err());
        let mut flow = Flow::default();
        send(&mut flow, 1);
        flow.comes(&[0, 0]).unwrap();
        assert!(flow.comes(&[0]).is_err());
    }

    #[test]
    fn an_answer_to_many_questions_does_not() {
        for questions in [2, 256, 65_535] {
            let mut flow = Flow::default();
            send(&mut flow, 1);
            assert!(flow.comes(&message(questions, 500)).is_err(), "{questions}");
        }
    }
}
