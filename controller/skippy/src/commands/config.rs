use serde_json::json;

use super::env;
use crate::cli::{ConfigCommand, Globals, SetContext};
use crate::config::{ConfigError, ConfigFile, Context, Token, Trust, parse_url, resolve};
use crate::error::Error;
use crate::output::{Output, table};

pub(super) fn run(command: &ConfigCommand, globals: &Globals, out: &mut Output) -> Result<(), Error> {
    let mut file = read(command)?;
    match command {
        ConfigCommand::SetContext(args) => {
            set_context(&mut file, args, globals)?;
            file.write()?;
            let used = file.current_context.as_deref() == Some(&args.name);
            let how = if used { "is set and in use" } else { "is set" };
            out.line(&format!("context {} {how} ({})", args.name, file.path.display()))
        }
        ConfigCommand::UseContext { name } => {
            file.context(name)?;
            file.current_context = Some(name.clone());
            file.write()?;
            out.line(&format!("context {name} is in use"))
        }
        ConfigCommand::List => list(&file, out),
        ConfigCommand::Show => show(&file, globals, out),
    }
}

/// A file that others may read is mended by setting a context anew, so then it must be readable here.
fn read(command: &ConfigCommand) -> Result<ConfigFile, ConfigError> {
    let path = ConfigFile::place(&env)?;
    match command {
        ConfigCommand::SetContext(_) => ConfigFile::read_exposed(&path),
        _ => ConfigFile::read(&path),
    }
}

fn set_context(file: &mut ConfigFile, args: &SetContext, globals: &Globals) -> Result<(), Error> {
    let old = file.contexts.get(&args.name);
    let url = match (&globals.url, old) {
        (Some(url), _) => parse_url(url)?.to_string(),
        (None, Some(old)) => old.url.clone(),
        (None, None) => {
            return Err(Error::Usage(format!(
                "context {:?} is new: give its --url https://HOST:PORT",
                args.name
            )));
        }
    };
    let mut context = Context { url, fingerprint: None, ca: None, token: None, token_file: None };
    // What belongs to the old URL must not go to the new one: not the token, and not the trust.
    if let Some(old) = old.filter(|old| old.url == context.url) {
        context.clone_from(old);
    }
    if globals.fingerprint.is_some() || globals.ca.is_some() || args.system_trust {
        if globals.fingerprint.is_some() && globals.ca.is_some() {
            return Err(ConfigError::TwoTrusts("the command line").into());
        }
        context.fingerprint = globals.fingerprint;
        context.ca = absolute(globals.ca.as_deref())?;
    }
    if globals.token_file.is_some() || args.token_from.is_some() || args.no_token {
        context.token = args.token_from.as_deref().map(Token::from_file).transpose()?;
        context.token_file = absolute(globals.token_file.as_deref())?;
    }
    file.contexts.insert(args.name.clone(), context);
    file.current_context.get_or_insert_with(|| args.name.clone());
    Ok(())
}

/// Commands are run from many directories.
fn absolute(path: Option<&std::path::Path>) -> Result<Option<std::path::PathBuf>, Error> {
    path.map(std::path::absolute).transpose().map_err(|error| Error::Local(format!("no such path: {error}")))
}

fn list(file: &ConfigFile, out: &mut Output) -> Result<(), Error> {
    let current = |name: &str| file.current_context.as_deref() == Some(name);
    if out.json {
        let contexts: Vec<_> = file
            .contexts
            .iter()
            .map(|(name, context)| {
                json!({
                    "name": name, "current": current(name), "url": context.url, "trust": trust(context),
                    "token": token(context),
                })
            })
            .collect();
        return out.json(&json!({ "items": contexts }));
    }
    if file.contexts.is_empty() {
        return out
            .line("no contexts: make one with `skippy config set-context NAME --url https://HOST:PORT`");
    }
    let rows = file
        .contexts
        .iter()
        .map(|(name, context)| {
            let mark = if current(name) { "*" } else { "" };
            vec![mark.to_owned(), name.clone(), context.url.clone(), trust(context), token(context)]
        })
        .collect();
    out.text(&table(&["", "NAME", "URL", "TRUST", "TOKEN"], rows))
}

fn show(file: &ConfigFile, globals: &Globals, out: &mut Output) -> Result<(), Error> {
    let settings = resolve(&globals.flags(), &env, file)?;
    let trust = match &settings.trust {
        Trust::Pinned(fingerprint) => fingerprint.to_string(),
        Trust::Ca(path) => format!("CA in {}", path.display()),
        Trust::System => "the system's authorities".to_owned(),
    };
    let token = if settings.token.is_some() { "given" } else { "none" };
    if out.json {
        return out.json(&json!({
            "url": settings.url.as_str(), "context": settings.context, "trust": trust, "token": token,
            "file": file.path,
        }));
    }
    let context = settings.context.as_deref().unwrap_or("none");
    out.text(&format!(
        "url:     {}\ncontext: {context}\ntrust:   {trust}\ntoken:   {token}\nfile:    {}\n",
        settings.url,
        file.path.display()
    ))
}

fn trust(context: &Context) -> String {
    match (&context.fingerprint, &context.ca) {
        (Some(fingerprint), _) => fingerprint.to_string(),
        (None, Some(path)) => format!("CA in {}", path.display()),
        (None, None) => "system".to_owned(),
    }
}

/// Whether there is a token, never the token.
fn token(context: &Context) -> String {
    match (&context.token, &context.token_file) {
        (Some(_), _) => "kept here".to_owned(),
        (None, Some(path)) => format!("in {}", path.display()),
        (None, None) => "none".to_owned(),
    }
}
