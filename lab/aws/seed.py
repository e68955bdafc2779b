#!/usr/bin/env python3
"""Fills the AWS stand-ins: S3, SSM, Secrets Manager, one ECS task definition, and the default metadata documents.

Takes everything from the LAB_ variables (see env.sh), changes only what differs, writes the ARNs to $LAB_ARNS.
Run by lab/up with the Python of build/venv.
"""

import json
import os
import sys
from pathlib import Path

if sys.argv[1:]:
    print("usage: . lab/env.sh; lab/run build/venv/bin/python lab/aws/seed.py\n\n" + __doc__.strip())
    sys.exit()

env = os.environ
REGION, ACCOUNT, BUCKET, FAMILY = env["LAB_AWS_REGION"], env["LAB_AWS_ACCOUNT"], env["LAB_BUCKET"], env["LAB_FAMILY"]
ODD_KEY = "teams/a b+c%20d/wëbapp01.json"
WEBAPP01 = f"credentialspecdomainless:arn:aws:s3:::{BUCKET}/webapp01.json"


def client(service):
    import boto3  # only build/venv has it, and --help should work without
    from botocore.config import Config

    return boto3.client(
        service,
        endpoint_url=env["LAB_AWS_ENDPOINT"],
        region_name=REGION,
        aws_access_key_id="seed",
        aws_secret_access_key="seed",
        config=Config(connect_timeout=5, read_timeout=20, retries={"total_max_attempts": 3}),
    )


def login(user, password, domain=env["LAB_DOMAIN"]):
    return json.dumps({"username": user, "password": password, "domainName": domain})


def secrets():
    gmsa_dn = f"CN={env['LAB_GMSA']},{env['LAB_GMSA_OU']}"
    wanted = {
        "login": login(env["LAB_USER"], env["LAB_USER_PW"]),
        "outsider": login(env["LAB_OUTSIDER"], env["LAB_OUTSIDER_PW"]),
        "disabled": login(env["LAB_DISABLED"], env["LAB_DISABLED_PW"]),
        "mustchange": login(env["LAB_MUSTCHANGE"], env["LAB_MUSTCHANGE_PW"]),
        "expired": login(env["LAB_EXPIRED"], env["LAB_EXPIRED_PW"]),
        "locked": login(env["LAB_LOCKED"], env["LAB_LOCKED_PW"]),
        "foreign": login(env["LAB_FOREIGN"], env["LAB_FOREIGN_PW"], env["LAB_OTHER_DOMAIN"]),
        "wrong-password": login(env["LAB_USER"], "not-the-password"),
        "unknown-login": login("svc-nobody", "no-such-account"),
        "alias-keys": json.dumps({
            "usernameOfStandardUserAccount": env["LAB_USER"],
            "passwordOfStandardUserAccount": env["LAB_USER_PW"],
            "domainName": env["LAB_DOMAIN"],
            "distinguishedNameOfgMSA": gmsa_dn,
        }),
        "missing-password": json.dumps({"username": env["LAB_USER"], "domainName": env["LAB_DOMAIN"]}),
        "not-json": "svc-fetcher:" + env["LAB_USER_PW"],
    }
    api, arns = client("secretsmanager"), {}
    there = {s["Name"]: s["ARN"] for page in api.get_paginator("list_secrets").paginate() for s in page["SecretList"]}
    for name, value in wanted.items():
        name = f"gmsa/{name}"
        if name not in there:
            arns[name] = api.create_secret(Name=name, SecretString=value)["ARN"]
            continue
        arns[name] = there[name]
        if api.get_secret_value(SecretId=name)["SecretString"] != value:
            api.put_secret_value(SecretId=name, SecretString=value)
    return arns


def credspec(account, login_arn):
    """As AWS documents it for Linux containers; without `login_arn` the form for domain-joined hosts."""
    domain = json.loads(Path(env["LAB_STATE"], "domain.json").read_text())
    document = {
        "CmsPlugins": ["ActiveDirectory"],
        "DomainJoinConfig": {
            "Sid": domain["sid"],
            "MachineAccountName": account,
            "Guid": domain["guid"],
            "DnsTreeName": env["LAB_DOMAIN"],
            "DnsName": env["LAB_DOMAIN"],
            "NetBiosName": env["LAB_NETBIOS"],
        },
        "ActiveDirectoryConfig": {
            "GroupManagedServiceAccounts": [
                {"Name": account, "Scope": env["LAB_DOMAIN"]},
                {"Name": account, "Scope": env["LAB_NETBIOS"]},
            ],
        },
    }
    if login_arn:
        document["ActiveDirectoryConfig"]["HostAccountConfig"] = {
            "PortableCcgVersion": "1",
            "PluginGUID": "{859E1386-BDB4-49E8-85C7-3070B13920E1}",
            "PluginInput": {"CredentialArn": login_arn},
        }
    return json.dumps(document, indent=2)


def credspecs(login_arn, foreign_arn):
    api = client("s3")
    if BUCKET not in [bucket["Name"] for bucket in api.list_buckets()["Buckets"]]:
        api.create_bucket(Bucket=BUCKET, CreateBucketConfiguration={"LocationConstraint": REGION})
    webapp01 = credspec(env["LAB_GMSA"], login_arn)
    for key, body in {
        "webapp01.json": webapp01,
        "webapp02.json": credspec(env["LAB_GMSA2"], login_arn),
        "webapp01-joined.json": credspec(env["LAB_GMSA"], None),
        "webappfar.json": credspec(env["LAB_GMSA_FAR"], foreign_arn),
        ODD_KEY: webapp01,
    }.items():
        api.put_object(Bucket=BUCKET, Key=key, Body=body.encode(), ContentType="application/json")
    ssm = client("ssm")
    ssm.put_parameter(Name="/gmsa/webapp01", Value=webapp01, Type="SecureString", Overwrite=True)
    ssm.put_parameter(Name="/gmsa/login", Value=login(env["LAB_USER"], env["LAB_USER_PW"]), Type="SecureString", Overwrite=True)
    for name in ["webapp01", "webapp02"]:
        body = credspec(env["LAB_GMSA"] if name == "webapp01" else env["LAB_GMSA2"], login_arn)
        api.put_object(Bucket=BUCKET, Key=f"list/{name}.json", Body=body.encode(), ContentType="application/json")
        ssm.put_parameter(Name=f"/list/specs/{name}", Value=body, Type="SecureString", Overwrite=True)
    api.put_object(Bucket=BUCKET, Key="list/README.txt", Body=b"not a CredSpec")


def task_definition():
    """With native credentialSpecs, as users of the platform's own fetcher have it."""
    api = client("ecs")
    if api.list_task_definitions(familyPrefix=FAMILY)["taskDefinitionArns"]:
        return
    api.register_task_definition(
        family=FAMILY,
        networkMode="awsvpc",
        requiresCompatibilities=["FARGATE"],
        cpu="256",
        memory="512",
        taskRoleArn=f"arn:aws:iam::{ACCOUNT}:role/gmsa-task",
        executionRoleArn=f"arn:aws:iam::{ACCOUNT}:role/gmsa-execution",
        containerDefinitions=[
            {"name": "gmsa-sidecar", "image": "gmsa-sidecar:latest", "essential": True},
            {"name": "app", "image": "app:latest", "essential": True, "credentialSpecs": [WEBAPP01],
             "dependsOn": [{"containerName": "gmsa-sidecar", "condition": "HEALTHY"}]},
        ],
    )


def metadata(labels):
    """The documents of a Fargate task in which only the sidecar is created yet: (container, task)."""
    task_id = "e40860c2b55a4200b03c3197f6c59714"
    task_arn = f"arn:aws:ecs:{REGION}:{ACCOUNT}:task/gmsa-cluster/{task_id}"
    cluster = f"arn:aws:ecs:{REGION}:{ACCOUNT}:cluster/gmsa-cluster"
    container = {
        "DockerId": f"{task_id}-2886439692",
        "Name": "gmsa-sidecar",
        "DockerName": "gmsa-sidecar",
        "Image": "gmsa-sidecar:latest",
        "Labels": {
            "com.amazonaws.ecs.cluster": cluster,
            "com.amazonaws.ecs.container-name": "gmsa-sidecar",
            "com.amazonaws.ecs.task-arn": task_arn,
            "com.amazonaws.ecs.task-definition-family": FAMILY,
            "com.amazonaws.ecs.task-definition-version": "1",
            **labels,
        },
        "DesiredStatus": "RUNNING",
        "KnownStatus": "RUNNING",
        "Limits": {"CPU": 2},
        "Type": "NORMAL",
        "LogDriver": "awslogs",
        "LogOptions": {"awslogs-group": "/ecs/webapp", "awslogs-region": REGION, "awslogs-stream": f"ecs/gmsa-sidecar/{task_id}"},
        "ContainerARN": f"arn:aws:ecs:{REGION}:{ACCOUNT}:container/gmsa-cluster/{task_id}/b31c78c2-9905-4b57-bfc1-e9f8a3689607",
        "Networks": [{
            "NetworkMode": "awsvpc",
            "IPv4Addresses": ["172.31.2.72"],
            "DomainNameServers": ["172.31.0.2"],
            "DomainNameSearchList": [f"{REGION}.compute.internal"],
            "SubnetGatewayIpv4Address": "172.31.0.1/20",
        }],
        "Snapshotter": "overlayfs",
    }
    task = {
        "Cluster": cluster,
        "TaskARN": task_arn,
        "Family": FAMILY,
        "Revision": "1",
        "DesiredStatus": "RUNNING",
        "KnownStatus": "RUNNING",
        "Limits": {"CPU": 0.25, "Memory": 512},
        "PullStartedAt": "2026-07-29T07:35:51.031284568Z",
        "PullStoppedAt": "2026-07-29T07:35:53.291824915Z",
        "AvailabilityZone": f"{REGION}c",
        "LaunchType": "FARGATE",
        "Containers": [container],
        "ClockDrift": {
            "ClockErrorBound": 0.556966,
            "ReferenceTimestamp": "2026-07-29T07:57:08Z",
            "ClockSynchronizationStatus": "SYNCHRONIZED",
        },
        "EphemeralStorageMetrics": {"Utilized": 261, "Reserved": 20496},
    }
    return container, task


def write(path, value):
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.new")
    temporary.write_text(json.dumps(value, indent=2) + "\n")
    temporary.rename(path)


def main():
    arns = secrets()
    credspecs(arns["gmsa/login"], arns["gmsa/foreign"])
    task_definition()
    for task, labels in {"sidecar": {"gmsa-sidecar.credential-specs": WEBAPP01}, "bare": {}}.items():
        container_document, task_document = metadata(labels)
        write(Path(env["LAB_ECS_DOCS"], task, "container.json"), container_document)
        write(Path(env["LAB_ECS_DOCS"], task, "task.json"), task_document)
    write(Path(env["LAB_ARNS"]), arns)


if __name__ == "__main__":
    main()
