"""S3 with the CredSpec and Secrets Manager with the login, by moto."""

import json
from pathlib import Path

import boto3
from moto.server import ThreadedMotoServer

server = ThreadedMotoServer("0.0.0.0", 5000, verbose=False)
server.start()
client = dict(endpoint_url="http://127.0.0.1:5000", region_name="eu-central-1", aws_access_key_id="local", aws_secret_access_key="local")

login = {"username": "svc-fetcher", "password": "Fetch3r-Passw0rd", "domainName": "example.com"}
secret = boto3.client("secretsmanager", **client).create_secret(Name="webapp/gmsa-login", SecretString=json.dumps(login))

cred_spec = json.loads(Path("/credspec.json").read_text())
cred_spec["ActiveDirectoryConfig"]["HostAccountConfig"]["PluginInput"]["CredentialArn"] = secret["ARN"]
s3 = boto3.client("s3", **client)
s3.create_bucket(Bucket="webapp-gmsa", CreateBucketConfiguration={"LocationConstraint": "eu-central-1"})
s3.put_object(Bucket="webapp-gmsa", Key="webapp01.json", Body=json.dumps(cred_spec).encode())

Path("/tmp/ready").touch()
server._thread.join()
