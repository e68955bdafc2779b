//! The task: what the ECS agent tells of it, and where in it the CredSpecs are named.
//!
//! Task metadata endpoint version 4:
//! <https://docs.aws.amazon.com/AmazonECS/latest/developerguide/task-metadata-endpoint-v4.html>

use std::collections::BTreeMap;

use serde_json::{Value, json};

use crate::aws::arn::Arn;
use crate::aws::{AnswerSecrecy, Aws, AwsService, Call, CallTarget, Codes};
use crate::credspec::reference::{MOST_LISTED, fits};
use crate::credspec::{Reference, ReferenceError, parse_label};
use crate::fault::{Code, Fault};
use crate::text::{json_reason, quoted};

/// What the documents of the ECS agent say. They gain fields and lack some by platform: whatever is not there, or
/// not of the expected type, is empty.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Task {
    /// From `TaskARN`: `eu-central-1`.
    pub region: Option<String>,
    /// From `TaskARN`: `aws`, `aws-cn`, ...
    pub partition: Option<String>,
    /// From `TaskARN`: twelve digits.
    pub account: Option<String>,
    /// The task definition's family.
    pub family: Option<String>,
    /// The task definition's revision.
    pub revision: Option<String>,
    /// The labels (`dockerLabels`) of the sidecar's own container.
    pub own_labels: BTreeMap<String, String>,
    /// The labels of every container that ECS has created so far, in its order, the own one too.
    pub container_labels: Vec<BTreeMap<String, String>>,
    /// The names of those containers.
    pub container_names: Vec<String>,
    /// Every `credentialSpecs` in the documents, in any casing. ECS shows none today.
    pub credential_specs: Vec<String>,
    /// How well the host keeps time, if it is told: Kerberos dies of skew.
    pub clock: Option<ClockDrift>,
}

/// `ClockDrift` of the task document.
#[derive(Debug, Clone, PartialEq)]
pub struct ClockDrift {
    /// `ClockErrorBound`: milliseconds.
    pub error_bound: Option<f64>,
    /// `ClockSynchronizationStatus` is `SYNCHRONIZED`.
    pub synchronized: bool,
}

impl Task {
    /// Reads the own container's document (`${ECS_CONTAINER_METADATA_URI_V4}`) and the task's (`/task`).
    pub fn parse(container: &[u8], task: &[u8]) -> Result<Self, Fault> {
        let read = |which, document| -> Result<Value, Fault> {
            let what = format!("The {which} metadata is malformed");
            let fault = |why: String| Fault::new(Code::TaskMetadataMalformed, what.clone()).because(why);
            let value: Value = serde_json::from_slice(document).map_err(|error| fault(json_reason(&error)))?;
            if value.is_object() { Ok(value) } else { Err(fault("it is not a JSON object".into())) }
        };
        let (container, task) = (read("container", container)?, read("task", task)?);
        let arn = task["TaskARN"].as_str().and_then(|arn| Arn::parse(arn).ok());
        let part = |part: fn(Arn<'_>) -> &str| arn.map(part).filter(|part| !part.is_empty()).map(str::to_owned);
        let mut credential_specs = Vec::new();
        collect_specs(&container, &mut credential_specs);
        collect_specs(&task, &mut credential_specs);
        Ok(Self {
            region: part(|arn| arn.region),
            partition: part(|arn| arn.partition),
            account: part(|arn| arn.account),
            family: task["Family"].as_str().map(str::to_owned),
            revision: match &task["Revision"] {
                Value::String(revision) => Some(revision.clone()),
                Value::Number(revision) => Some(revision.to_string()),
                _ => None,
            },
            own_labels: labels(&container),
            container_labels: task["Containers"].as_array().into_iter().flatten().map(labels).collect(),
            container_names: task["Containers"].as_array().into_iter().flatten().map(name).collect(),
            credential_specs,
            clock: task["ClockDrift"].as_object().map(|clock| ClockDrift {
                error_bound: clock.get("ClockErrorBound").and_then(Value::as_f64),
                synchronized: clock.get("ClockSynchronizationStatus").and_then(Value::as_str) == Some("SYNCHRONIZED"),
            }),
        })
    }
}

fn name(container: &Value) -> String {
    container["Name"].as_str().unwrap_or_default().to_owned()
}

fn labels(container: &Value) -> BTreeMap<String, String> {
    let labels = container["Labels"].as_object().into_iter().flatten();
    labels.filter_map(|(key, value)| Some((key.clone(), value.as_str()?.to_owned()))).collect()
}

/// Every text in a field called `credentialSpecs`, however deep; labels are free text and not looked into.
fn collect_specs(value: &Value, specs: &mut Vec<String>) {
    match value {
        Value::Object(fields) => {
            for (key, value) in fields {
                if key.eq_ignore_ascii_case("credentialSpecs") {
                    let found = value.as_array().map_or(std::slice::from_ref(value), Vec::as_slice);
                    specs.extend(found.iter().filter_map(Value::as_str).map(str::to_owned));
                } else if key != "Labels" {
                    collect_specs(value, specs);
                }
            }
        }
        Value::Array(values) => values.iter().for_each(|value| collect_specs(value, specs)),
        _ => {}
    }
}

/// Where a task that names no CredSpecs in its environment names them, first hit wins: the label of the sidecar's
/// own container, that of any other, `credentialSpecs` in the agent's documents, and the task definition.
///
/// One attempt: trying again is the caller's.
pub async fn discover(aws: &Aws) -> Result<Vec<Reference>, Fault> {
    let container = aws.metadata("").await?;
    let task = Task::parse(&container, &aws.metadata("/task").await?)?;
    if let Some(label) = task.own_labels.get(LABEL) {
        let origin = "the label of the sidecar's own container";
        let found = parse_label(label).and_then(not_too_many).map(|found| named(found, origin));
        return found.map_err(|errors| label_fault(origin, errors));
    }
    // The containers' labels may differ: every app may name its own. ECS lists a container only once it is created.
    let (mut found, mut octets) = (Vec::new(), 0);
    for (name, labels) in task.container_names.iter().zip(&task.container_labels) {
        if let Some(label) = labels.get(LABEL) {
            let origin = format!("the label of the container {}", quoted(name));
            octets += label.len();
            fits(label, octets).map_err(|error| label_fault(&origin, vec![error]))?;
            found.extend(named(parse_label(label).map_err(|errors| label_fault(&origin, errors))?, &origin));
        }
    }
    if !found.is_empty() {
        return not_too_many(unique(found)).map_err(|errors| label_fault("the labels of the containers", errors));
    }
    if !task.credential_specs.is_empty() {
        let found = union(&task.credential_specs, one).map_err(definition_fault)?;
        return Ok(named(found, "credentialSpecs in the task metadata"));
    }
    from_definition(&task, aws).await
}

/// `credentialSpecs` of the task's own definition (`ecs:DescribeTaskDefinition`).
async fn from_definition(task: &Task, aws: &Aws) -> Result<Vec<Reference>, Fault> {
    let not_found = |why: &str| {
        Fault::new(Code::TaskCredSpecNotFound, "The task does not name a CredSpec").because(why).with_next(LABEL_IT)
    };
    let (Some(family), Some(revision)) = (&task.family, &task.revision) else {
        return Err(not_found(
            "no container that ECS lists has the label gmsa-sidecar.credential-specs, and the task metadata does not name a task definition",
        ));
    };
    let (Some(region), Some(partition)) = (&task.region, &task.partition) else {
        return Err(not_found(
            "no container that ECS lists has the label gmsa-sidecar.credential-specs, and the task metadata has no TaskARN",
        ));
    };
    let body = json!({"taskDefinition": format!("{family}:{revision}")}).to_string();
    let place = CallTarget { region, partition };
    let answer = aws.call(AwsService::Ecs, "DescribeTaskDefinition", body, place, AnswerSecrecy::Free).await;
    let answer = answer.map_err(|failure| {
        let what = format!("No container has the label {LABEL}, and `{family}:{revision}` could not be described");
        let account = task.account.as_deref().unwrap_or("*");
        let resource = format!("arn:{partition}:ecs:{region}:{account}:task-definition/{family}:{revision}");
        let action = "ecs:DescribeTaskDefinition";
        let call = Call { service: AwsService::Ecs, place, action, resource: &resource, named_by: "the task metadata" };
        let fault = aws.fault(&failure, &what, &CODES, &call);
        match fault.code {
            // This right is not needed where the label is.
            Code::TaskDefinitionDenied | Code::TaskCredSpecNotFound => fault.with_next(LABEL_IT),
            _ => fault,
        }
    })?;
    let what = || format!("The answer about the task definition `{family}:{revision}` is malformed");
    let answer: Value = serde_json::from_slice(&answer)
        .map_err(|error| Fault::new(Code::TaskDefinitionUnreachable, what()).because(json_reason(&error)))?;
    let mut specs = Vec::new();
    collect_specs(&answer["taskDefinition"]["containerDefinitions"], &mut specs);
    if specs.is_empty() {
        return Err(not_found(
            "no container that ECS lists has the label gmsa-sidecar.credential-specs, and the task definition has no credentialSpecs",
        ));
    }
    let references = union(&specs, one).map_err(definition_fault)?;
    let references = named(references, &format!("credentialSpecs of the task definition {family}:{revision}"));
    tracing::warn!(
        event = "task.native-credspecs",
        task_definition = format!("{family}:{revision}"),
        "the task definition has native credentialSpecs: the platform's own fetcher is at work in this task too; the \
         two must not mount the same path. Name the CredSpecs in the label {LABEL} instead",
    );
    Ok(references)
}

fn named(references: Vec<Reference>, origin: &str) -> Vec<Reference> {
    references.into_iter().map(|reference| reference.named_by(origin)).collect()
}

fn unique(references: Vec<Reference>) -> Vec<Reference> {
    let mut unique: Vec<Reference> = Vec::new();
    for reference in references {
        if !unique.contains(&reference) {
            unique.push(reference);
        }
    }
    unique
}

/// One element of `credentialSpecs` is one reference, spaces and commas included.
fn one(spec: &str) -> Result<Vec<Reference>, Vec<ReferenceError>> {
    parse_label(&json!([spec]).to_string())
}

/// All references of all texts, each once; or all errors.
fn union<T: AsRef<str>>(
    texts: impl IntoIterator<Item = T>,
    parse: impl Fn(&str) -> Result<Vec<Reference>, Vec<ReferenceError>>,
) -> Result<Vec<Reference>, Vec<ReferenceError>> {
    let (mut references, mut errors, mut octets) = (Vec::new(), Vec::new(), 0);
    for text in texts {
        octets += text.as_ref().len();
        if let Err(error) = fits(text.as_ref(), octets) {
            return Err(vec![error]);
        }
        match parse(text.as_ref()) {
            Ok(found) => references.extend(found),
            Err(found) => errors.extend(found),
        }
    }
    if errors.is_empty() { not_too_many(unique(references)) } else { Err(errors) }
}

/// As many as a list may name.
fn not_too_many(references: Vec<Reference>) -> Result<Vec<Reference>, Vec<ReferenceError>> {
    let count = references.len();
    match references.first() {
        Some(first) if count > MOST_LISTED => Err(vec![ReferenceError::too_many(first, count)]),
        _ => Ok(references),
    }
}

fn label_fault(origin: &str, errors: Vec<ReferenceError>) -> Fault {
    let fault = Fault::new(Code::TaskLabelInvalid, format!("Cannot use {origin}, {LABEL}")).because(listed(errors));
    fault.with_next(format!(
        "write the ARN of the S3 object with the CredSpec into the label, e.g. \"{LABEL}\": \
         \"credentialspecdomainless:arn:aws:s3:::bucket/webapp01.json\""
    ))
}

fn definition_fault(errors: Vec<ReferenceError>) -> Fault {
    let fault = Fault::new(Code::TaskCredSpecNotFound, "The task's credentialSpecs cannot be used by a sidecar");
    fault.because(listed(errors)).with_next(LABEL_IT)
}

fn listed(errors: Vec<ReferenceError>) -> String {
    let told: Vec<_> = errors.iter().take(TOLD).map(ToString::to_string).collect();
    let more = errors.len().saturating_sub(TOLD);
    if more == 0 { told.join("; ") } else { format!("{}; and {more} more", told.join("; ")) }
}

/// How many errors a fault repeats.
const TOLD: usize = 5;

const LABEL_IT: &str = "add to the sidecar's container in the task definition: \"dockerLabels\": \
                        {\"gmsa-sidecar.credential-specs\": \"credentialspecdomainless:arn:aws:s3:::BUCKET/KEY\"} with \
                        the ARN of your CredSpec";

const CODES: Codes = Codes {
    credentials: Code::TaskDefinitionDenied,
    credentials_later: Code::TaskDefinitionUnreachable,
    denied: Code::TaskDefinitionDenied,
    unreachable: Code::TaskDefinitionUnreachable,
    not_found: Code::TaskCredSpecNotFound,
    unusable: Code::TaskCredSpecNotFound,
};

/// The label that names CredSpecs, in the syntax of `GMSA_CREDENTIAL_SPECS`.
pub const LABEL: &str = "gmsa-sidecar.credential-specs";

#[cfg(test)]
mod tests {
    use super::*;

    use proptest::prelude::*;

    use crate::aws::tests::{aws_at, http, server, shown};

    /// A real document of a Fargate task, shortened.
    const TASK: &str = r#"{"Cluster":"arn:aws:ecs:ap-northeast-1:123456789012:cluster/simple-ecs-cluster",
        "TaskARN":"arn:aws:ecs:ap-northeast-1:123456789012:task/simple-ecs-cluster/e40860c2b55a4200b03c3197f6c59714",
        "Family":"dev-yamada","Revision":"3","DesiredStatus":"RUNNING","Limits":{"CPU":1,"Memory":3072},
        "Containers":[{"DockerId":"e408-2886439692","Name":"dev-yamada","Labels":{
            "com.amazonaws.ecs.task-definition-family":"dev-yamada","com.amazonaws.ecs.task-definition-version":"3"},
            "Networks":[{"NetworkMode":"awsvpc","IPv4Addresses":["172.31.2.72"]}]}],
        "ClockDrift":{"ClockErrorBound":0.556966,"ReferenceTimestamp":"2024-07-29T07:57:08Z","ClockSynchronizationStatus":"SYNCHRONIZED"}}"#;

    fn container(labels: Value) -> Value {
        json!({"Name": "gmsa-sidecar", "Labels": labels})
    }

    fn ok(body: impl ToString) -> Vec<u8> {
        http(200, "", body.to_string().as_bytes())
    }

    async fn discover_from(answers: Vec<Vec<u8>>) -> Result<Vec<String>, Fault> {
        let found = discover(&aws_at(&server(answers))).await?;
        Ok(found.iter().map(ToString::to_string).collect())
    }

    #[test]
    fn a_fargate_task_is_read() {
        let task = Task::parse(br#"{"Labels":{"a":"b","c":7}}"#, TASK.as_bytes()).unwrap();
        assert_eq!(task.region.as_deref(), Some("ap-northeast-1"));
        assert_eq!((task.partition.as_deref(), task.account.as_deref()), (Some("aws"), Some("123456789012")));
        assert_eq!((task.family.as_deref(), task.revision.as_deref()), (Some("dev-yamada"), Some("3")));
        assert_eq!(task.own_labels, BTreeMap::from([("a".to_owned(), "b".to_owned())]));
        assert_eq!(task.container_labels.len(), 1);
        assert_eq!(task.clock, Some(ClockDrift { error_bound: Some(0.556966), synchronized: true }));
    }

    #[test]
    fn fields_that_are_missing_or_odd_are_empty() {
        assert_eq!(Task::parse(b"{}", b"{}").unwrap(), Task::default());
        let odd = br#"{"TaskARN":7,"Family":[],"Revision":3,"Containers":{"x":1},"ClockDrift":"no","New":{"a":[]}}"#;
        let expected = Task { revision: Some("3".into()), ..Task::default() };
        assert_eq!(Task::parse(br#"{"Labels":[]}"#, odd).unwrap(), expected);
        for (container, task) in [("", "{}"), ("{}", "no"), ("[]", "{}"), ("{}", "null")] {
            let fault = Task::parse(container.as_bytes(), task.as_bytes()).unwrap_err();
            assert_eq!(fault.code, Code::TaskMetadataMalformed);
        }
    }

    #[test]
    fn credential_specs_are_found_in_any_casing_but_not_in_labels() {
        let task = json!({"Containers": [
            {"CredentialSpecs": ["a", 7]}, {"credentialspecs": "b", "Labels": {"credentialSpecs": "no"}}
        ]});
        let task = Task::parse(br#"{"credentialSpecs":["c"]}"#, task.to_string().as_bytes()).unwrap();
        assert_eq!(task.credential_specs, ["c", "a", "b"]);
    }

    #[tokio::test]
    async fn the_own_label_wins() {
        let own = container(json!({LABEL: "arn:aws:s3:::bucket/own"}));
        let task = json!({"Containers": [container(json!({LABEL: "arn:aws:s3:::bucket/other"}))]});
        assert_eq!(discover_from(vec![ok(own), ok(task)]).await.unwrap(), ["arn:aws:s3:::bucket/own"]);
    }

    #[tokio::test]
    async fn other_containers_labels_are_joined() {
        let labelled = |label: &str| container(json!({LABEL: label}));
        let task = json!({"Containers": [
            labelled("arn:aws:s3:::bucket/a"), container(json!({})), labelled("arn:aws:s3:::bucket/a arn:aws:s3:::bucket/b")
        ]});
        let found = discover_from(vec![ok("{}"), ok(task)]).await.unwrap();
        assert_eq!(found, ["arn:aws:s3:::bucket/a", "arn:aws:s3:::bucket/b"]);
        let wrong = container(json!({LABEL: "file:///etc/passwd"}));
        let fault = discover_from(vec![ok(wrong), ok("{}")]).await.unwrap_err();
        assert_eq!(fault.code, Code::TaskLabelInvalid);
    }

    /// A task definition has 64 KiB at most, whatever the agent says.
    #[tokio::test]
    async fn credspecs_are_named_in_64_kib_at_most() {
        let names = |count: usize| {
            let names: Vec<_> = (0..count).map(|at| format!("arn:aws:s3:::bucket/{at:010}")).collect();
            names.join(" ")
        };
        let of = |count: usize| container(json!({LABEL: names(count)}));
        assert_eq!(discover_from(vec![ok(of(500)), ok("{}")]).await.unwrap().len(), 500);
        let many = json!({"Containers": vec![of(1_000); 3]});
        let specs = json!({"Containers": [{"CredentialSpecs": names(3_000).split(' ').collect::<Vec<_>>()}]});
        for (container, task, code) in [
            (of(3_000), json!({}), Code::TaskLabelInvalid),
            (json!({}), many, Code::TaskLabelInvalid),
            (json!({}), specs, Code::TaskCredSpecNotFound),
        ] {
            let fault = discover_from(vec![ok(container), ok(task)]).await.unwrap_err();
            assert_eq!(fault.code, code);
            assert!(fault.why.as_ref().is_some_and(|why| why.contains("65536")), "{fault}");
        }
        let wrong = container(json!({LABEL: "a ".repeat(9)}));
        let fault = discover_from(vec![ok(wrong), ok("{}")]).await.unwrap_err();
        assert!(fault.why.as_ref().is_some_and(|why| why.ends_with("; and 4 more")), "{fault}");
    }

    #[tokio::test]
    async fn specs_shown_by_the_agent_come_before_the_task_definition() {
        let own = json!({"CredentialSpecs": ["credentialspecdomainless:arn:aws:s3:::bucket/a b,c"]});
        assert_eq!(discover_from(vec![ok(own), ok(TASK)]).await.unwrap(), ["arn:aws:s3:::bucket/a b,c"]);
    }

    #[tokio::test]
    async fn the_task_definition_is_asked_last() {
        let spec = "credentialspecdomainless:arn:aws:s3:::bucket/a";
        let definition = json!({"taskDefinition": {"containerDefinitions": [
            {"name": "sidecar"}, {"name": "app", "credentialSpecs": [spec]}, {"name": "app2", "credentialSpecs": [spec]}
        ]}});
        let found = discover_from(vec![ok("{}"), ok(TASK), ok(definition)]).await.unwrap();
        assert_eq!(found, ["arn:aws:s3:::bucket/a"]);
        let none = json!({"taskDefinition": {"containerDefinitions": [{"name": "app"}]}});
        let host_file = json!({"taskDefinition": {"containerDefinitions": [{"credentialSpecs": ["credentialspec:file://a.json"]}]}});
        let denied = r#"{"__type":"com.amazonaws.ecs#AccessDeniedException","Message":"User: arn:aws:sts::123456789012:assumed-role/r/s is not authorized to perform: ecs:DescribeTaskDefinition on resource: * because no identity-based policy allows the ecs:DescribeTaskDefinition action"}"#;
        for (answer, code) in [
            (ok(none), Code::TaskCredSpecNotFound),
            (ok(host_file), Code::TaskCredSpecNotFound),
            (ok("garbage"), Code::TaskDefinitionUnreachable),
            (http(400, "", denied.as_bytes()), Code::TaskDefinitionDenied),
            (http(400, "", br#"{"__type":"ClientException"}"#), Code::TaskCredSpecNotFound),
            (http(500, "", b""), Code::TaskDefinitionUnreachable),
        ] {
            let fault = discover_from(vec![ok("{}"), ok(TASK), answer]).await.unwrap_err();
            assert_eq!(fault.code, code, "{fault}");
        }
        let fault = discover_from(vec![ok("{}"), ok(TASK), http(400, "", denied.as_bytes())]).await.unwrap_err();
        insta::assert_snapshot!(shown(&fault), @r#"
        code=task-definition-denied
          what: No container has the label gmsa-sidecar.credential-specs, and `dev-yamada:3` could not be described
          why:  AWS answered AccessDeniedException (HTTP 400): User: arn:aws:sts::123456789012:assumed-role/r/s is not authorized to perform: ecs:DescribeTaskDefinition on resource: * because no identity-based policy allows the ecs:DescribeTaskDefinition action; endpoint: http://ENDPOINT (set by AWS_ENDPOINT_URL)
          next: add to the sidecar's container in the task definition: "dockerLabels": {"gmsa-sidecar.credential-specs": "credentialspecdomainless:arn:aws:s3:::BUCKET/KEY"} with the ARN of your CredSpec
          more: gmsa-sidecar explain task-definition-denied
        "#);
    }

    #[tokio::test]
    async fn a_task_names_500_credspecs_at_most_wherever_it_names_them() {
        let arns = |from: usize, to: usize| (from..to).map(|at| format!("arn:aws:s3:::bkt/{at}")).collect::<Vec<_>>();
        let labelled = |from, to| container(json!({LABEL: arns(from, to).join(" ")}));
        let task = |containers: &[Value]| ok(json!({"Containers": containers}));
        for (count, places) in [
            (500, vec![ok(labelled(0, 500)), ok("{}")]),
            (501, vec![ok(labelled(0, 501)), ok("{}")]),
            (500, vec![ok("{}"), task(&[labelled(0, 250), labelled(250, 500), labelled(0, 9)])]),
            (501, vec![ok("{}"), task(&[labelled(0, 250), labelled(250, 501)])]),
            (501, vec![ok("{}"), ok(json!({"credentialSpecs": arns(0, 501)}))]),
        ] {
            let found = discover_from(places).await;
            match found {
                Ok(found) => assert_eq!((found.len(), count), (500, 500)),
                Err(fault) => {
                    assert_eq!(count, 501, "{fault}");
                    assert!(fault.why.clone().unwrap().contains("500 at most"), "{fault}");
                }
            }
        }
    }

    #[tokio::test]
    async fn an_agent_that_does_not_know_the_container_yet_is_asked_again() {
        let fault = discover_from(vec![http(404, "", b"\"V4 container metadata handler: unable\"")]).await.unwrap_err();
        assert_eq!(
            (fault.code, fault.why.as_deref()),
            (Code::TaskMetadataUnreachable, Some("the endpoint answered with HTTP 404"))
        );
    }

    proptest! {
        #[test]
        fn any_document_is_read_or_refused(text in "\\PC{0,200}") {
            let _ = Task::parse(text.as_bytes(), text.as_bytes());
        }
    }
}
