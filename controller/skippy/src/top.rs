//! `skippy top`: nodes, links and throughput, live.

mod draw;
mod model;

use std::io::{self, IsTerminal};
use std::time::Duration;

use crossterm::event::{Event, KeyCode, KeyEventKind, KeyModifiers};
use tokio::sync::mpsc;
use tokio::time::{MissedTickBehavior, interval};

use self::draw::{Focus, View};
use self::model::{Model, Sample};
use crate::cli::TopArgs;
use crate::client::Client;
use crate::commands::{Session, all};
use crate::error::Error;
use crate::output::now;
use crate::routes;

/// How often the keyboard's thread looks whether it is still needed.
const KEY_POLL: Duration = Duration::from_millis(100);

pub(crate) async fn run(s: &mut Session, args: &TopArgs) -> Result<(), Error> {
    let full_screen = !args.once && !s.out.json;
    if full_screen && !(io::stdout().is_terminal() && io::stdin().is_terminal()) {
        return Err(Error::Usage(
            "skippy top needs a terminal: use --once for one picture as text, or --json for lines".to_owned(),
        ));
    }
    let mut model = Model::default();
    model.update(sample(&s.client).await?);
    if full_screen {
        return screen(&s.client, model, args.interval).await;
    }
    let mut ticks = interval(args.interval);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    ticks.tick().await;
    loop {
        tokio::select! {
            _ = ticks.tick() => {}
            _ = tokio::signal::ctrl_c() => return Ok(()),
        }
        model.update(sample(&s.client).await?);
        if s.out.json {
            s.out.json_line(&model.json())?;
        } else {
            s.out.text(&model.text())?;
        }
        if args.once {
            return Ok(());
        }
    }
}

async fn sample(client: &Client) -> Result<Sample, Error> {
    let nodes = client.list(&routes::nodes()).await?;
    let links = client.list(&routes::links()).await?;
    Ok(Sample { nodes: all(nodes)?, links: all(links)?, at: now() })
}

async fn screen(client: &Client, mut model: Model, every: Duration) -> Result<(), Error> {
    let mut terminal = ratatui::try_init()?;
    let _restore = Restore;
    let mut keys = keyboard();
    let mut ticks = interval(every);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut view = View::new(client.url().to_string());
    // While one is under way no other is begun, and keys are obeyed meanwhile.
    let mut fetch = None;
    loop {
        terminal.draw(|frame| draw::draw(frame, &model, &mut view))?;
        tokio::select! {
            event = keys.recv() => match event {
                Some(event) => if !obey(&event, &mut view) { return Ok(()) },
                None => return Err(Error::Local("the terminal is gone".to_owned())),
            },
            _ = ticks.tick(), if fetch.is_none() => fetch = Some(Box::pin(sample(client))),
            sampled = async { fetch.as_mut().expect("the guard has looked").await }, if fetch.is_some() => {
                fetch = None;
                match sampled {
                    Ok(sample) => {
                        model.update(sample);
                        view.error = None;
                    }
                    Err(error) => view.error = Some(error.to_string()),
                }
            }
        }
    }
}

struct Restore;

impl Drop for Restore {
    fn drop(&mut self) {
        ratatui::restore();
    }
}

/// The terminal's events, read by a thread that ends with the receiver.
fn keyboard() -> mpsc::Receiver<Event> {
    let (sender, receiver) = mpsc::channel(16);
    std::thread::spawn(move || {
        while !sender.is_closed() {
            let event = match crossterm::event::poll(KEY_POLL) {
                Ok(true) => crossterm::event::read(),
                Ok(false) => continue,
                Err(error) => Err(error),
            };
            let Ok(event) = event else { return };
            if sender.blocking_send(event).is_err() {
                return;
            }
        }
    });
    receiver
}

/// Whether to go on.
fn obey(event: &Event, view: &mut View) -> bool {
    // A resize is obeyed by drawing anew.
    let Event::Key(key) = event else { return true };
    if key.kind != KeyEventKind::Press {
        return true;
    }
    match key.code {
        KeyCode::Char('q') | KeyCode::Esc => return false,
        KeyCode::Char('c') if key.modifiers.contains(KeyModifiers::CONTROL) => return false,
        KeyCode::Tab | KeyCode::BackTab => {
            view.focus = if view.focus == Focus::Nodes { Focus::Links } else { Focus::Nodes };
        }
        KeyCode::Char('>' | '.') | KeyCode::Right => view.table().next_column(),
        KeyCode::Char('<' | ',') | KeyCode::Left => view.table().previous_column(),
        KeyCode::Char('r') => view.table().reverse = !view.table().reverse,
        KeyCode::Down | KeyCode::Char('j') => view.table().scroll_by(1),
        KeyCode::Up | KeyCode::Char('k') => view.table().scroll_by(-1),
        KeyCode::PageDown => view.table().scroll_by(10),
        KeyCode::PageUp => view.table().scroll_by(-10),
        _ => {}
    }
    true
}

#[cfg(test)]
mod tests;
