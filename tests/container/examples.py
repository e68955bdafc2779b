"""Holds the examples against the models of the services that read them. Run by examples.rs, in the lab.

`containers` checks nothing: it prints each container of theirs, one JSON object a line.
"""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import boto3
import botocore.session
import cfnlint.decode.cfn_yaml
import yaml
from botocore.validate import ParamValidator

ROOT = Path(__file__).resolve().parents[2]
TASKS = ["task-definition.example.json", "examples/init-task-definition.json"]
DAEMON = "examples/daemon-task-definition.json"
POLICIES = ["examples/iam-task-role.json", "examples/iam-execution-role.json", "examples/iam-trust.json"]
COMPOSE = ["examples/compose.yaml", "examples/local/compose.yaml"]
PAGES = ["docs/ecs.md", "docs/kubernetes.md", "docs/managed-daemon.md", "examples/README.md", "README.md"]
LABEL = "gmsa-sidecar.credential-specs"
SETTINGS = re.findall(r'variable: "(\w+)"', (ROOT / "src/config/settings.rs").read_text())
CODES = re.findall(r'^    \w+ "([a-z-]+)"', (ROOT / "src/fault.rs").read_text(), re.MULTILINE)
NAMES = ["gmsa-sidecar"]
TEMPLATE, MANIFEST = "examples/cloudformation.yaml", "examples/kubernetes.yaml"


def read(path):
    return json.loads((ROOT / path).read_text())


def fits(operation, parameters, path):
    """The parameters are those of the operation, by the service's own model: unknown ones count too."""
    session = botocore.session.get_session()
    model = session.get_service_model("ecs").operation_model(operation).input_shape
    report = ParamValidator().validate(parameters, model)
    assert not report.has_errors(), f"{path}: {report.generate_report()}"


def client(service, endpoint):
    return boto3.client(service, endpoint_url=endpoint, region_name="eu-central-1", aws_access_key_id="x", aws_secret_access_key="x")


def task_definitions(endpoint):
    for path, condition in zip(TASKS, ["HEALTHY", "SUCCESS"]):
        fits("RegisterTaskDefinition", read(path), path)
        task = client("ecs", endpoint).register_task_definition(**read(path))["taskDefinition"]
        sidecar, app = task["containerDefinitions"]
        assert (sidecar["name"], app["name"]) == ("gmsa-sidecar", "app"), path
        assert app["dependsOn"] == [{"containerName": "gmsa-sidecar", "condition": condition}], path
        assert not sidecar["mountPoints"][0]["readOnly"] and app["mountPoints"][0]["readOnly"], path
        # ECS takes SUCCESS of no container that is essential.
        assert sidecar["essential"] == (condition == "HEALTHY"), path
        gives_up_in_time(sidecar, path)
        for what in ["memory", "cpu"]:
            assert sidecar[what] + app[what] <= int(task[what]), f"{path}: {what}"
    fits("RegisterDaemonTaskDefinition", read(DAEMON), DAEMON)


def gives_up_in_time(sidecar, path):
    """It tells why before ECS ends it without a word; Fargate gives no container more than 120 seconds."""
    timeouts = [e["value"] for e in sidecar["environment"] if e["name"] in ("GMSA_START_TIMEOUT", "GMSA_INIT_TIMEOUT")]
    assert len(timeouts) == 1 and int(timeouts[0].rstrip("s")) < sidecar["startTimeout"] <= 120, path
    if check := sidecar.get("healthCheck"):
        assert check["command"] == ["CMD", "/gmsa-sidecar", "health"], path
        # It never counts as unhealthy before it has had the time to start.
        assert check["startPeriod"] >= sidecar["startTimeout"], path


def policies(endpoint):
    iam = client("iam", endpoint)
    for path in POLICIES:
        document = read(path)
        assert document["Version"] == "2012-10-17", path
        name = f"test-{Path(path).stem}"
        if "Principal" in document["Statement"][0]:
            iam.create_role(RoleName=name, AssumeRolePolicyDocument=json.dumps(document))
            iam.delete_role(RoleName=name)
        else:
            arn = iam.create_policy(PolicyName=name, PolicyDocument=json.dumps(document))["Policy"]["Arn"]
            iam.delete_policy(PolicyArn=arn)


def run(*command):
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
    return done.stdout


def tool(name):
    return str(Path(sys.executable).with_name(name))


def template(_):
    run(tool("cfn-lint"), TEMPLATE)


def manifest(_):
    for version in ["1.33", "1.37"]:
        run(tool("kubernetes-validate"), "--strict", "--kubernetes-version", version, MANIFEST)


def compose(_):
    for path in COMPOSE:
        run("docker", "compose", "--file", path, "config", "--quiet")


def names(_):
    """What stands in one place stands in the others."""
    found = {}
    for container in all_containers():
        found.setdefault(container["name"], set()).add((container["image"], container["user"]))
    version = next(line for line in (ROOT / "Cargo.toml").read_text().splitlines() if line.startswith("version"))
    image = "gmsa-sidecar:" + version.split('"')[1]
    for name, user in found["gmsa-sidecar"]:
        assert name.endswith(f"/{image}") or name == "gmsa-sidecar:latest", f"{name} is not {image}"
    assert {user for _, user in found["app"]} == {"1654:1654"}, found
    for page in PAGES:
        text = (ROOT / page).read_text()
        for path in re.findall(r"[(`]((?:\.\./)*(?:examples/[\w./-]+|task-definition\.example\.json))[)`]", text):
            assert (ROOT / path.replace("../", "")).exists(), f"{page} names {path}, which is not there"
        for variable in re.findall(r"`(GMSA_[A-Z_]+)", text):
            assert variable in SETTINGS, f"{page} names {variable}, which means nothing"
        for code in re.findall(r"`((?:config|task|credspec|secret|dc|ticket|gmsa|volume)-[a-z-]+)`", text):
            assert code in CODES or code in NAMES, f"{page} names the fault {code}, which there is not"
        for label in re.findall(r"gmsa-sidecar\.[a-z-]+", text):
            assert label == LABEL, f"{page} names the label {label}"
    # What the README quotes is what stands in the example; an image's name may be cut.
    quoted = re.search(r"```json\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)[1]
    for ours, theirs in zip(json.loads(f"[{quoted}]"), read(TASKS[0])["containerDefinitions"], strict=True):
        ours.pop("image", None)
        is_part(ours, theirs, f"README.md, {ours['name']}")
    for path in [*TASKS, TEMPLATE]:
        assert LABEL in (ROOT / path).read_text(), path


def is_part(ours, theirs, path):
    """All that we say stands there too, where more may stand."""
    if isinstance(ours, dict):
        for key, value in ours.items():
            assert key in theirs, f"{path}: {key}"
            is_part(value, theirs[key], f"{path}: {key}")
    elif isinstance(ours, list) and isinstance(ours[0], dict):
        for entry in ours:
            same = [t for t in theirs if all(t.get(key) == entry[key] for key in ("name", "sourceVolume", "containerName") if key in entry)]
            assert len(same) == 1, f"{path}: {entry}"
            is_part(entry, same[0], path)
    else:
        assert ours == theirs, f"{path}: {ours} is not {theirs}"


def prepare(endpoint):
    """The bucket, the CredSpecs and the login that the examples name, made of the examples' own documents."""
    login, cred_spec = read("examples/secret.json"), read("examples/credspec.json")
    assert login["username"] == os.environ["LAB_USER"]
    login["password"] = os.environ["LAB_USER_PW"]
    place = cred_spec["ActiveDirectoryConfig"]["HostAccountConfig"]["PluginInput"]
    name = place["CredentialArn"].split(":")[6].rsplit("-", 1)[0]
    secrets, s3 = client("secretsmanager", endpoint), client("s3", endpoint)
    try:
        place["CredentialArn"] = secrets.create_secret(Name=name, SecretString=json.dumps(login))["ARN"]
    except secrets.exceptions.ResourceExistsException:
        place["CredentialArn"] = secrets.put_secret_value(SecretId=name, SecretString=json.dumps(login))["ARN"]
    bucket = "webapp-gmsa"
    if bucket not in [there["Name"] for there in s3.list_buckets()["Buckets"]]:
        s3.create_bucket(Bucket=bucket, CreateBucketConfiguration={"LocationConstraint": "eu-central-1"})
    first = json.dumps(cred_spec)
    s3.put_object(Bucket=bucket, Key="webapp01.json", Body=first.encode())
    s3.put_object(Bucket=bucket, Key="webapp02.json", Body=first.replace("WebApp01", "WebApp02").encode())


def containers(_):
    for container in all_containers():
        print(json.dumps(container))


def all_containers():
    """Path, name, image, environment, labels, command and user of the two containers of each example."""
    def pairs(entries):
        return {entry["name"]: str(entry["value"]) for entry in entries}

    def found(path, c, **more):
        fields = {"path": path, "labels": None, "command": None}
        return fields | {key: c[key] for key in ("name", "image", "environment", "command", "user") if key in c} | more

    for path in [*TASKS, DAEMON]:
        for c in read(path)["containerDefinitions"]:
            yield found(path, c, environment=pairs(c["environment"]), labels=c.get("dockerLabels"))
    pod = next(d for d in yaml.safe_load_all((ROOT / MANIFEST).read_text()) if d["kind"] == "Deployment")["spec"]["template"]["spec"]
    for c in pod["initContainers"] + pod["containers"]:
        user = "{runAsUser}:{runAsGroup}".format(**c["securityContext"])
        yield found(MANIFEST, c, environment=pairs(c["env"]), command=c.get("args"), user=user)
    for path in COMPOSE:
        services = yaml.safe_load((ROOT / path).read_text())["services"]
        for name in ("gmsa-sidecar", "app"):
            yield found(path, services[name], name=name)
    template = as_json(cfnlint.decode.cfn_yaml.load(str(ROOT / TEMPLATE)))
    for c in template["Resources"]["TaskDefinition"]["Properties"]["ContainerDefinitions"]:
        c = {key[0].lower() + key[1:]: value for key, value in c.items()}
        environment = {entry["Name"]: entry["Value"] for entry in c["environment"]}
        yield found(TEMPLATE, c, environment=environment, labels=c.get("dockerLabels"))


def as_json(node, parameters=None):
    """The template with its references to parameters and to AWS filled in."""
    if parameters is None:
        parameters = {name: str(p.get("Default", "")) for name, p in node["Parameters"].items()} | {"AWS::Partition": "aws"}
    if isinstance(node, dict):
        if list(node) == ["Ref"]:
            return parameters.get(node["Ref"], node["Ref"])
        if list(node) == ["Fn::Sub"]:
            return re.sub(r"\$\{([\w:]+)\}", lambda m: parameters.get(m[1], m[1]), node["Fn::Sub"])
        return {key: as_json(value, parameters) for key, value in node.items()}
    return [as_json(item, parameters) for item in node] if isinstance(node, list) else node


if __name__ == "__main__":
    globals()[sys.argv[1]](*sys.argv[2:] or [None])
