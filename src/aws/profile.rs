//! The shared configuration of AWS tools (`AWS_CONFIG_FILE`, `AWS_SHARED_CREDENTIALS_FILE`), made safe for the SDK.
//!
//! <https://docs.aws.amazon.com/sdkref/latest/guide/file-format.html>. The SDK panics at some values and takes an
//! empty one for a value, so it gets the text from here: without empty keys.

use std::fmt;
use std::path::PathBuf;

#[expect(deprecated, reason = "the names that do not need a dependency on aws-runtime")]
use aws_config::profile::profile_file::{ProfileFileKind, ProfileFiles};

use crate::file::{self, Unread};
use crate::text::quoted;

/// One file as the SDK gets it, and the values in it that this program uses itself.
#[derive(Clone, Default, PartialEq, Eq)]
pub(super) struct Profile {
    /// The text of the config file.
    pub(super) config: String,
    /// The text of the credentials file: it holds keys.
    pub(super) credentials: String,
    path: PathBuf,
    values: Vec<Value>,
}

/// `key = value` in a section, perhaps below another key.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Value {
    section: String,
    parent: Option<String>,
    key: String,
    value: String,
    line: usize,
}

impl Profile {
    /// Reads both files; the problems name the variable that is wrong.
    pub(super) fn read(lookup: impl Fn(&str) -> Option<String>, problems: &mut Vec<String>) -> Self {
        let mut text = |variable: &str, name: &str| {
            let named = lookup(variable);
            let home = || Some(PathBuf::from(lookup("HOME")?).join(".aws").join(name));
            let path = named.clone().map(PathBuf::from).or_else(home).unwrap_or_default();
            if path.as_os_str().is_empty() || path.as_os_str() == "/dev/null" {
                return (path, String::new());
            }
            let text = match file::read(&path, LIMIT) {
                Ok(bytes) => String::from_utf8(bytes).map_err(|_| "it is not UTF-8".to_owned()),
                // As every AWS SDK has it: a file that is not there is an empty one.
                Err(Unread::Io(error)) if error.kind() == std::io::ErrorKind::NotFound => Ok(String::new()),
                Err(_) if named.is_none() => Ok(String::new()),
                Err(error) => Err(error.to_string()),
            };
            let text = text.unwrap_or_else(|why| {
                problems.push(format!("{variable}: {}: {why}", quoted(&path.to_string_lossy())));
                String::new()
            });
            (path, text)
        };
        let (path, config) = text("AWS_CONFIG_FILE", "config");
        let (_, credentials) = text("AWS_SHARED_CREDENTIALS_FILE", "credentials");
        let (config, values) = sound(&config);
        let (credentials, _) = sound(&credentials);
        Self { config, credentials, path, values }
    }

    /// As the SDK takes them.
    #[expect(deprecated, reason = "the name that does not need a dependency on aws-runtime")]
    pub(super) fn files(&self) -> ProfileFiles {
        ProfileFiles::builder()
            .with_contents(ProfileFileKind::Config, &self.config)
            .with_contents(ProfileFileKind::Credentials, &self.credentials)
            .build()
    }

    /// A value of a profile, and where it stands.
    pub(super) fn get(&self, profile: &str, key: &str) -> Option<(&str, String)> {
        let sections = [format!("profile {profile}"), profile.to_owned()];
        self.find(|value| sections.contains(&value.section) && value.parent.is_none() && value.key == key)
    }

    /// The endpoint of one service, `s3` or `secrets_manager`, in the `services` section that a profile names.
    pub(super) fn service_endpoint(&self, profile: &str, service: &str) -> Option<(&str, String)> {
        let section = format!("services {}", self.get(profile, "services")?.0);
        let of_service = |value: &Value| value.parent.as_deref() == Some(service) && value.key == "endpoint_url";
        self.find(|value| value.section == section && of_service(value))
    }

    fn find(&self, wanted: impl Fn(&Value) -> bool) -> Option<(&str, String)> {
        let value = self.values.iter().rev().find(|value| wanted(value))?;
        let place = format!("{} in {}, line {}", value.key, self.path.display(), value.line);
        Some((&value.value, place))
    }
}

impl fmt::Debug for Profile {
    /// Without the texts, which hold keys.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Profile").field("path", &self.path).finish_non_exhaustive()
    }
}

/// The text without keys that have no value, and the values of it.
fn sound(text: &str) -> (String, Vec<Value>) {
    let (mut kept, mut values) = (String::new(), Vec::new());
    let (mut section, mut parent) = (String::new(), None);
    let lines: Vec<&str> = text.lines().collect();
    let is_indented = |line: &&str| line.starts_with([' ', '\t']) && !line.trim().is_empty();
    for (place, line) in lines.iter().enumerate() {
        let words = line.trim();
        let has_children = lines.get(place + 1).is_some_and(is_indented);
        if let Some(name) = words.strip_prefix('[').and_then(|name| name.split(']').next()) {
            section = name.split_whitespace().collect::<Vec<_>>().join(" ");
            parent = None;
        } else if !words.starts_with(['#', ';'])
            && let Some((key, value)) = words.split_once('=')
        {
            let (key, value) = (key.trim().to_ascii_lowercase(), value.split(" #").next().unwrap_or_default().trim());
            let is_child = is_indented(line);
            if !is_child {
                parent = None;
            }
            if value.is_empty() {
                if is_child || !has_children {
                    continue;
                }
                parent = Some(key);
            } else {
                let (section, value) = (section.clone(), value.to_owned());
                values.push(Value { section, parent: parent.clone(), key, value, line: place + 1 });
            }
        }
        kept += line;
        kept.push('\n');
    }
    (kept, values)
}

/// Bytes.
const LIMIT: usize = 1024 * 1024;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_without_a_value_go_and_nested_ones_stay() {
        let text = "[default]\nregion=eu-west-1\nendpoint_url =\nretry_mode=  \n# a = \nservices = lab\n\
                    [services lab]\ns3 =\n  endpoint_url = http://s3.test\nssm =\n  endpoint_url =\n[profile x]\nregion = q\n";
        let (kept, values) = sound(text);
        assert!(!kept.contains("retry_mode") && kept.matches("endpoint_url").count() == 1, "{kept}");
        let profile = Profile { config: kept, path: "/c".into(), values, ..Profile::default() };
        assert_eq!(profile.get("default", "region"), Some(("eu-west-1", "region in /c, line 2".to_owned())));
        assert_eq!(profile.get("x", "region").unwrap().0, "q");
        assert_eq!(profile.service_endpoint("default", "s3").unwrap().0, "http://s3.test");
        assert_eq!(profile.service_endpoint("default", "ssm"), None);
        assert!(!format!("{profile:?}").contains("eu-west"));
    }
}
