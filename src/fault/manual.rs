//! The manual: what the registry does not say of a code, for `gmsa-sidecar explain` and `docs/faults.md`.

use super::{Code, Exit, Owner, Retry};

/// What the registry does not say of a code.
#[derive(Debug)]
pub struct Page {
    /// Of which fault.
    pub code: Code,
    /// How it comes about.
    pub cause: &'static str,
    /// How to end it, more exactly than `next`.
    pub cure: &'static str,
    /// A command that shows it.
    pub show: &'static str,
}

macro_rules! pages {
    ($($code:ident { cause: $cause:literal, cure: $cure:literal, show: $show:literal })*) => {
        pub(super) const PAGES: &[Page] = &[$(Page { code: Code::$code, cause: $cause, cure: $cure, show: $show }),*];
    };
}

pages! {
    ConfigInvalid {
        cause: "A variable or flag has a value that cannot be used. All of them are told in one line.",
        cure: "Correct each value that *why* names, in the task definition's `environment`, and deploy again. If `GMSA_CREDENTIAL_SPECS` is named, look at the prefix first: `credentialspecdomainless:` and `credentialspec:` are all there are, and what follows is the ARN of an S3 object or an SSM parameter, or `file:///path`.",
        show: "aws ecs describe-task-definition --task-definition FAMILY --query 'taskDefinition.containerDefinitions[].environment'"
    }
    ConfigNoCredSpec {
        cause: "Nothing says which CredSpecs to use: the variable is not set, and without an ECS task there is nobody to ask.",
        cure: "Set `GMSA_CREDENTIAL_SPECS=credentialspecdomainless:arn:aws:s3:::BUCKET/KEY`. On ECS `ECS_CONTAINER_METADATA_URI_V4` is set by the agent (Fargate platform 1.4.0, ECS agent 1.39.0 or later): if it is missing there, something clears the environment.",
        show: "aws ecs describe-task-definition --task-definition FAMILY --query 'taskDefinition.containerDefinitions[].[name,environment,dockerLabels]'"
    }
    ConfigAccountTwice {
        cause: "Two CredSpecs, or one named in two ways, hold the same gMSA. Account names compare without case, as in AD.",
        cure: "Take one of the two out of the list. If two apps shall have tickets of one gMSA, they share the one on the volume.",
        show: "aws s3 cp s3://BUCKET/KEY - | grep '\"Name\"'"
    }
    ConfigOwnerDenied {
        cause: "Only root may give files away. The sidecar runs as another user than `GMSA_OWNER`, or as root without the capability, or the volume's file system (NFS with root squash, EFS with an access point) gives every file to one user.",
        cure: "Run the sidecar as the app's user (`\"user\": \"1654:1654\"`) and drop `GMSA_OWNER`; or share a group: `\"user\": \"65532:1654\"` and `GMSA_MODE=0640`. Fargate allows root but not added capabilities.",
        show: "aws ecs describe-task-definition --task-definition FAMILY --query 'taskDefinition.containerDefinitions[].[name,user]'"
    }
    ConfigListen {
        cause: "The address is taken: the containers of a task share one network, so the app or a second sidecar may listen there. Or the address is not this task's.",
        cure: "Choose another port with `GMSA_LISTEN=127.0.0.1:PORT`, in the sidecar only: `health` reads the same variable.",
        show: "aws ecs describe-task-definition --task-definition FAMILY --query 'taskDefinition.containerDefinitions[].[name,portMappings]'"
    }
    ConfigLoginMissing {
        cause: "The CredSpec names no `CredentialArn`: it is made for hosts that are joined to the domain, whose own login is used.",
        cure: "Make the CredSpec domainless: `HostAccountConfig.PluginInput.CredentialArn` with the ARN of the login's secret. Or mount the host's keytab into the sidecar and name it in `GMSA_LOGIN_KEYTAB`.",
        show: "aws s3 cp s3://BUCKET/KEY - | grep CredentialArn"
    }
    TaskMetadataUnreachable {
        cause: "The ECS agent did not answer. At the start of a task this passes within seconds; for longer it is the agent's, or the variable points somewhere else (a copied environment, a debugging session).",
        cure: "Wait. If it stays: unset `ECS_CONTAINER_METADATA_URI_V4` outside ECS and set `GMSA_CREDENTIAL_SPECS`; on EC2 look at the agent's log.",
        show: "curl -s \"$ECS_CONTAINER_METADATA_URI_V4/task\""
    }
    TaskMetadataMalformed {
        cause: "Something answers where the ECS agent should, but not with its documents.",
        cure: "See what `ECS_CONTAINER_METADATA_URI_V4` points to; it must be version 4 of the agent's endpoint.",
        show: "curl -s \"$ECS_CONTAINER_METADATA_URI_V4\""
    }
    TaskCredSpecNotFound {
        cause: "No label on any container that ECS has created yet, and the task definition names no CredSpec either. A container that waits for the sidecar to be healthy is not there when the sidecar asks, so its label is not seen.",
        cure: "Put the label `gmsa-sidecar.credential-specs` on the sidecar's own container, or set `GMSA_CREDENTIAL_SPECS` there.",
        show: "aws ecs describe-task-definition --task-definition FAMILY --query 'taskDefinition.containerDefinitions[].[name,dockerLabels]'"
    }
    TaskLabelInvalid {
        cause: "The label holds something else than ARNs. Files and documents are allowed in the sidecar's own environment only, since whoever may label some container shall not choose files of the sidecar's.",
        cure: "Write ARNs into the label: `credentialspecdomainless:arn:aws:s3:::BUCKET/KEY`, separated by spaces; keys with spaces or commas as a JSON array.",
        show: "aws ecs describe-task-definition --task-definition FAMILY --query 'taskDefinition.containerDefinitions[].dockerLabels'"
    }
    TaskDefinitionDenied {
        cause: "Without a label the sidecar asks ECS for the task definition, with the *task* role, which lacks the right.",
        cure: "Set the label: then no right is needed. Or allow `ecs:DescribeTaskDefinition` (it takes no resource: `\"Resource\": \"*\"`).",
        show: "aws iam simulate-principal-policy --policy-source-arn TASK_ROLE_ARN --action-names ecs:DescribeTaskDefinition"
    }
    TaskDefinitionUnreachable {
        cause: "The ECS API does not answer from this subnet: no NAT, no VPC endpoint, a proxy that is not set.",
        cure: "Set the label: then ECS is not asked. Or make the way: the VPC endpoint `com.amazonaws.REGION.ecs`, NAT, or `HTTPS_PROXY`.",
        show: "aws ec2 describe-vpc-endpoints --filters Name=vpc-id,Values=VPC --query 'VpcEndpoints[].ServiceName'"
    }
    TaskStartTimeout {
        cause: "`GMSA_START_TIMEOUT` is over, the task was never ready, and no step has failed: one of them takes very long. If a step has failed, the exit code and the line are those of its fault.",
        cure: "Run `gmsa-sidecar check`: it tells the time of each step. Then cure the slow one, or give more time.",
        show: "aws logs tail LOG_GROUP --filter-pattern sidecar.start-timeout"
    }
    CredSpecNotFound {
        cause: "The bucket or the key does not exist. Keys are used as they stand: `%20` is not a space, and case counts.",
        cure: "Compare the ARN with the object, character by character; upload the CredSpec if it was never there.",
        show: "aws s3api head-object --bucket BUCKET --key KEY"
    }
    CredSpecDenied {
        cause: "S3 denies the read. The right must be the *task* role's: the execution role, which the platform's own fetcher uses, is not the sidecar's. A bucket policy, a VPC endpoint policy or KMS may deny too; *why* tells which, if AWS does. Without `s3:ListBucket` a key that does not exist reads as denied as well.",
        cure: "Allow `s3:GetObject` on `arn:aws:s3:::BUCKET/KEY` to the task role; with a customer-managed key also `kms:Decrypt` on that key.",
        show: "aws iam simulate-principal-policy --policy-source-arn TASK_ROLE_ARN --action-names s3:GetObject --resource-arns arn:aws:s3:::BUCKET/KEY"
    }
    CredSpecAwsCredentials {
        cause: "The container has no AWS credentials, or AWS does not accept them: the task definition names no task role, or the keys in the environment are wrong or have expired.",
        cure: "Set `taskRoleArn` in the task definition, and let `ecs-tasks.amazonaws.com` assume the role.",
        show: "aws ecs describe-task-definition --task-definition FAMILY --query taskDefinition.taskRoleArn"
    }
    CredSpecAwsCredentialsFailed {
        cause: "The endpoint of the task role's credentials answered with an error (400, 429 or 5xx) or not in time. The ECS agent does so for some seconds after a start, and under load.",
        cure: "Wait: it is asked again within seconds. If it lasts, the task role cannot be assumed: check `taskRoleArn`, and that the role's trust policy allows `ecs-tasks.amazonaws.com`.",
        show: "aws ecs describe-task-definition --task-definition FAMILY --query taskDefinition.taskRoleArn"
    }
    CredSpecUnreachable {
        cause: "S3, or SSM for a parameter, does not answer: no route (a private subnet without NAT and without the gateway endpoint), a closed security group, a proxy that is not set or not trusted.",
        cure: "Add the S3 gateway endpoint to the subnet's route table (it is free; SSM has an interface endpoint), or NAT, or `HTTPS_PROXY`. With a proxy that opens TLS: `AWS_CA_BUNDLE`.",
        show: "aws ec2 describe-vpc-endpoints --filters Name=vpc-id,Values=VPC --query 'VpcEndpoints[].[ServiceName,RouteTableIds]'"
    }
    CredSpecRegion {
        cause: "An S3 ARN names no region, and outside of ECS nothing else tells it.",
        cure: "Set `AWS_REGION`. On ECS it is read from the task's ARN; if this is told there, the metadata lacks it.",
        show: "aws s3api get-bucket-location --bucket BUCKET"
    }
    CredSpecUnreadable {
        cause: "`file:///path` is not there, or not for the sidecar's user (65532 in the image).",
        cure: "Mount the file into the sidecar's container, readable for its user.",
        show: "aws ecs describe-task-definition --task-definition FAMILY --query 'taskDefinition.containerDefinitions[].[name,user,mountPoints]'"
    }
    CredSpecTooLarge {
        cause: "The object is no CredSpec: one has about a kilobyte.",
        cure: "Name the right object.",
        show: "aws s3api head-object --bucket BUCKET --key KEY --query ContentLength"
    }
    CredSpecMalformed {
        cause: "The document is not JSON, or a field is missing or holds something impossible; *why* names it.",
        cure: "Correct the field, or make the CredSpec anew: `New-CredentialSpec -AccountName WebApp01 -Domain corp.example.com` on a Windows host, then add `HostAccountConfig`.",
        show: "aws s3 cp s3://BUCKET/KEY - | python3 -m json.tool"
    }
    CredSpecCredentialArnMissing {
        cause: "The prefix `credentialspecdomainless:` says that the document names a secret, and it names none.",
        cure: "Add `ActiveDirectoryConfig.HostAccountConfig.PluginInput.CredentialArn` with the secret's ARN.",
        show: "aws s3 cp s3://BUCKET/KEY - | grep CredentialArn"
    }
    SecretNotFound {
        cause: "There is no such secret in the ARN's region and account, or it has no current version.",
        cure: "Compare `CredentialArn` with the secret's ARN. Its last six characters are random: a secret that was deleted and made anew has others. Leave them out, and the name alone counts.",
        show: "aws secretsmanager describe-secret --secret-id ARN"
    }
    SecretDenied {
        cause: "Secrets Manager denies the read to the task role; or the secret is encrypted with a key of yours that the role may not use; or the secret's own policy denies.",
        cure: "Allow `secretsmanager:GetSecretValue` on the secret's ARN (end it with `-??????` if you write the name) to the *task* role, and `kms:Decrypt` on the key.",
        show: "aws iam simulate-principal-policy --policy-source-arn TASK_ROLE_ARN --action-names secretsmanager:GetSecretValue --resource-arns ARN"
    }
    SecretAwsCredentials {
        cause: "As with `credspec-aws-credentials`; the CredSpec itself did not come from AWS.",
        cure: "Set `taskRoleArn` in the task definition.",
        show: "aws ecs describe-task-definition --task-definition FAMILY --query taskDefinition.taskRoleArn"
    }
    SecretAwsCredentialsFailed {
        cause: "The endpoint of the task role's credentials answered with an error (400, 429 or 5xx) or not in time. The ECS agent does so for some seconds after a start, and under load.",
        cure: "Wait: it is asked again within seconds. If it lasts, the task role cannot be assumed: check `taskRoleArn`, and that the role's trust policy allows `ecs-tasks.amazonaws.com`.",
        show: "aws ecs describe-task-definition --task-definition FAMILY --query taskDefinition.taskRoleArn"
    }
    SecretUnreachable {
        cause: "Secrets Manager does not answer from this subnet. The S3 gateway endpoint does not help here.",
        cure: "Add the interface endpoint `com.amazonaws.REGION.secretsmanager` with private DNS and a security group that lets the task in on 443, or NAT, or `HTTPS_PROXY`.",
        show: "aws ec2 describe-vpc-endpoints --filters Name=vpc-id,Values=VPC --query 'VpcEndpoints[].[ServiceName,PrivateDnsEnabled,Groups]'"
    }
    SecretUnusable {
        cause: "The secret is scheduled for deletion, or has no value yet.",
        cure: "Restore it: `aws secretsmanager restore-secret --secret-id ARN`; or store a value.",
        show: "aws secretsmanager describe-secret --secret-id ARN --query '[DeletedDate,VersionIdsToStages]'"
    }
    SecretTooLarge {
        cause: "`CredentialArn` names some other secret: a login is some hundred bytes.",
        cure: "Name the login's secret.",
        show: "aws secretsmanager describe-secret --secret-id ARN"
    }
    SecretMalformed {
        cause: "The secret's text is not a JSON object, or a value in it cannot be used. The text itself is never shown. A plain password, or key/value text copied from a form, is the usual case.",
        cure: "Store `{\"username\":\"svc\",\"password\":\"...\",\"domainName\":\"corp.example.com\"}`: in the console *Key/value*, not *Plaintext*.",
        show: "aws secretsmanager get-secret-value --secret-id ARN --query SecretString --output text | python3 -c 'import json, sys; print(sorted(json.load(sys.stdin)))'"
    }
    SecretKeyMissing {
        cause: "The JSON object lacks a key, or its value is empty. Names are `username` and `password` (or `usernameOfStandardUserAccount` and `passwordOfStandardUserAccount`), and case counts.",
        cure: "Add the key that *why* names.",
        show: "aws secretsmanager get-secret-value --secret-id ARN --query SecretString --output text | python3 -c 'import json, sys; print(sorted(json.load(sys.stdin)))'"
    }
    SecretKeytabUnusable {
        cause: "`GMSA_LOGIN_KEYTAB` names no file that the sidecar's user can read, or the file is no keytab, or it has no AES key of `GMSA_LOGIN_PRINCIPAL`.",
        cure: "Mount the keytab read-only into the sidecar's container. A keytab of RC4 keys alone is of no use: make it anew with AES (`ktpass -crypto AES256-SHA1`, `adcli update`, `net ads keytab create`).",
        show: "klist -ke /etc/krb5.keytab"
    }
    DcSrvNotFound {
        cause: "The DNS servers that the task asks do not know the AD domain. In a VPC the Amazon resolver knows it only by a Resolver rule, or by the VPC's DHCP options.",
        cure: "Forward the domain to the domain controllers: a Route 53 Resolver outbound endpoint with a rule for it; or DHCP options with their addresses; or `GMSA_DNS_SERVERS=ADDRESS,ADDRESS` for the sidecar alone. If the name in *why* is misspelt, it is `DnsName` in the CredSpec.",
        show: "nslookup -type=SRV _ldap._tcp.dc._msdcs.corp.example.com"
    }
    DcDnsUnreachable {
        cause: "The DNS server does not answer: port 53 is closed between task and server, or the address is wrong, or it answers with an error.",
        cure: "Open port 53, UDP and TCP, in the security groups of task and server; or name others in `GMSA_DNS_SERVERS`.",
        show: "nslookup -type=SRV _ldap._tcp.dc._msdcs.corp.example.com DNS_SERVER"
    }
    DcAddressNotFound {
        cause: "DNS tells the name of a domain controller and not its address; or `GMSA_DOMAIN_CONTROLLERS` names a host that does not exist.",
        cure: "Forward the zone in which the domain controllers have their names as well; or correct the name.",
        show: "nslookup dc1.corp.example.com"
    }
    DcUnreachable {
        cause: "No connection: a security group, a route, a network ACL or the firewall of the domain controller is closed, or it is down. A refusal means that the host is there and does not listen; no answer means that something drops the packets.",
        cure: "Let the task's security group out, and in at the domain controllers, on TCP 88 and 389 (with `GMSA_LDAP=ldaps` 636 instead of 389). Check the route (peering, transit gateway, VPN) both ways.",
        show: "Test-NetConnection dc1.corp.example.com -Port 88"
    }
    TicketLoginRefused {
        cause: "The password in the secret is not the login's. It was changed in one place only, or a rotation is half-way.",
        cure: "Store the right one in the secret. The sidecar reads the secret again by itself and does not send a version that was refused a second time.",
        show: "aws secretsmanager describe-secret --secret-id ARN --query '[LastChangedDate,LastRotatedDate]'; Get-ADUser NAME -Properties PasswordLastSet, BadPwdCount, LastBadPasswordAttempt"
    }
    TicketLoginHeld {
        cause: "Two versions of the secret were refused within half an hour. A third wrong password could lock the account, so none is sent.",
        cure: "Store the right password and wait; the sidecar goes on by itself.",
        show: "Get-ADUser NAME -Properties LockedOut, BadPwdCount, LastBadPasswordAttempt"
    }
    TicketLoginUnknown {
        cause: "The domain has no account of that name: a typing error, another domain, or an account that was just made and has not replicated.",
        cure: "`username` is the sAMAccountName (or `name@domain`, `DOMAIN\\name`), `domainName` the domain's DNS name.",
        show: "Get-ADUser NAME -Server corp.example.com"
    }
    TicketLoginRevoked {
        cause: "The login is disabled, locked after wrong passwords, or has expired: *what* tells which, if the domain controller does.",
        cure: "Disabled: `Enable-ADAccount NAME`. Locked: `Unlock-ADAccount NAME`, after the cause of the wrong passwords is gone (other tasks with an old secret?). Expired: `Set-ADAccountExpiration NAME -DateTime ...` or `Clear-ADAccountExpiration NAME`.",
        show: "Get-ADUser NAME -Properties Enabled, LockedOut, AccountExpirationDate, BadPwdCount"
    }
    TicketLoginRestricted {
        cause: "The account may not log on at this hour or from this host, or an authentication policy or silo keeps it to other hosts.",
        cure: "Clear the restriction for this account. Containers have no computer account, so no list of workstations can hold them.",
        show: "Get-ADUser NAME -Properties LogonHours, LogonWorkstations, msDS-AssignedAuthNPolicy, msDS-AssignedAuthNPolicySilo"
    }
    TicketLoginPasswordExpired {
        cause: "The password is older than the domain allows, or the account carries `must change password at next logon`.",
        cure: "Set a new password and store it in the secret. For a service account that a rotation cares for: `Set-ADUser NAME -PasswordNeverExpires $true`.",
        show: "Get-ADUser NAME -Properties PasswordExpired, PasswordLastSet, PasswordNeverExpires"
    }
    TicketGmsaRefused {
        cause: "The directory told the managed password, current and previous, and the KDC refuses both: the password changed a moment ago and this domain controller has not heard of it, or its clock is wrong, so that it computes another one.",
        cure: "It is tried again, on other domain controllers too. If it stays: look at replication and at the clocks of the domain controllers.",
        show: "repadmin /showrepl; Get-ADServiceAccount WebApp01 -Properties PasswordLastSet, msDS-KeyVersionNumber"
    }
    TicketGmsaUnknown {
        cause: "LDAP shows the gMSA, but the KDC does not know it: it was just made or renamed and is not everywhere yet.",
        cure: "Wait for replication, or start it: `repadmin /syncall /AdeP`.",
        show: "Get-ADServiceAccount WebApp01 -Server dc1.corp.example.com"
    }
    TicketGmsaRevoked {
        cause: "The gMSA is disabled, or has expired, or an authentication policy forbids it.",
        cure: "`Set-ADServiceAccount WebApp01 -Enabled $true`.",
        show: "Get-ADServiceAccount WebApp01 -Properties Enabled, AccountExpirationDate, msDS-AssignedAuthNPolicy"
    }
    TicketServiceUnknown {
        cause: "For a service of `GMSA_SERVICE_TICKETS`: no account has the SPN, or more than one has it (AD then answers as if none had), or it is not the name that clients use: for SQL Server, ODBC, JDBC and Go ask for `MSSQLSvc/HOST:1433` and .NET's SqlClient for `MSSQLSvc/HOST`. For `ldap/HOST/DOMAIN`: the domain controller is addressed by a name that is not its own, an alias or a load balancer in `GMSA_DOMAIN_CONTROLLERS`.",
        cure: "`setspn -S SPN ACCOUNT` gives it to the account that the service runs as, and refuses a second one; `setspn -D SPN ACCOUNT` takes it from a wrong one. For a domain controller use the name in the SRV record: Kerberos has no ticket for an alias. `gmsa-sidecar check` tells who has the name.",
        show: "setspn -Q MSSQLSvc/db.corp.example.com:1433; setspn -X"
    }
    TicketTrust {
        cause: "The login's domain (`domainName` in the secret, or the realm in the keytab) is another one than the CredSpec's `DnsName`, and its KDC knows no way there: the two do not trust each other. The login is proven only to domain controllers of its own domain.",
        cure: "Correct `domainName`, or leave it out if it is the gMSA's domain. Else let the gMSA's domain trust the login's, or use a login of the gMSA's domain.",
        show: "Get-ADTrust -Filter *"
    }
    TicketClockSkew {
        cause: "The clocks of this host and of the domain controller differ. Kerberos allows five minutes; the sidecar works around up to twelve hours, and clients of MIT Kerberos that use its ccache do too, others do not. On EC2 and Fargate the host's clock is right as a rule (169.254.169.123): then it is the domain controller's.",
        cure: "Set the clock: on the domain controller `w32tm /resync`, on an EC2 host `chronyc makestep`. In a container there is nothing to set.",
        show: "w32tm /query /status; gmsa-sidecar check"
    }
    TicketEncryption {
        cause: "The account has no AES key: RC4 alone is allowed for it, or its password was last set before the domain knew AES.",
        cure: "`Set-ADUser NAME -KerberosEncryptionType AES128,AES256`, then set its password once. For a gMSA: `Set-ADServiceAccount NAME -KerberosEncryptionType AES128,AES256`, and wait for its next password.",
        show: "Get-ADUser NAME -Properties msDS-SupportedEncryptionTypes, PasswordLastSet"
    }
    TicketPreauth {
        cause: "The account needs a smart card, or the domain requires FAST (Kerberos armoring).",
        cure: "`Set-ADUser NAME -SmartcardLogonRequired $false`; armoring set to `supported` and not `required` for this account.",
        show: "Get-ADUser NAME -Properties SmartcardLogonRequired, msDS-AssignedAuthNPolicy"
    }
    TicketKdcFailed {
        cause: "The KDC answered with an error that has no code of its own here; *why* has its number and name.",
        cure: "Look it up in the System log of the domain controller. It is tried again.",
        show: "Get-WinEvent -ComputerName DC1 -FilterHashtable @{LogName='System'; ProviderName='Microsoft-Windows-Kerberos-Key-Distribution-Center'} -MaxEvents 20"
    }
    TicketReplyInvalid {
        cause: "The answer is no Kerberos message, was cut short or changed, or does not verify with our key.",
        cure: "See what stands between task and domain controller (a proxy, an inspecting firewall) and what really listens on port 88.",
        show: "Test-NetConnection dc1.corp.example.com -Port 88"
    }
    GmsaConnectionLost {
        cause: "The LDAP service closed the connection, or did not answer in time: it restarts, is overloaded, or something between cuts idle or unknown traffic.",
        cure: "It is tried again, on other domain controllers too. If it stays: look at the Directory Service log and at firewalls that inspect LDAP.",
        show: "Get-WinEvent -ComputerName DC1 -LogName 'Directory Service' -MaxEvents 20"
    }
    GmsaTlsUntrusted {
        cause: "With `GMSA_LDAP=ldaps` the certificate of the domain controller was issued by a CA that the sidecar does not know, as a rule the company's own. Nothing was sent to it.",
        cure: "Export the issuing chain's root as PEM (`certutil -ca.cert`, then `certutil -encode`) and name it in `GMSA_LDAP_CA_FILE`. If the issuer in *why* is none of yours, somebody stands in between.",
        show: "openssl s_client -connect dc1.corp.example.com:636 -showcerts </dev/null"
    }
    GmsaTlsCertificate {
        cause: "The issuer is trusted, but the certificate is expired, not yet valid, for another name or for another use. A domain controller keeps using an old one until it has a better one.",
        cure: "Renew it with the template *Kerberos Authentication* or *Domain Controller Authentication*, which put the DNS name in. If it is not valid *yet*, look at this host's clock.",
        show: "openssl s_client -connect dc1.corp.example.com:636 </dev/null | openssl x509 -noout -subject -ext subjectAltName -dates"
    }
    GmsaTlsFailed {
        cause: "The TLS handshake on port 636 broke off. A domain controller without a certificate takes the connection and hangs up at once; so do firewalls that inspect TLS.",
        cure: "Enrol a certificate for the domain controller. Or drop `GMSA_LDAP`: on port 389 the connection is sealed by Kerberos, which needs no certificate.",
        show: "openssl s_client -connect dc1.corp.example.com:636 </dev/null"
    }
    GmsaBindRefused {
        cause: "LDAP does not accept the login's ticket: the domain controller's own SPN stands on another account, its clock is wrong, or a policy forbids the logon. On port 636 `80090346` means that the domain controller shows another certificate than the sidecar sees: something in between opens the TLS connection, and channel binding has kept the ticket from it.",
        cure: "*why* has the sub-code in words. `setspn -X` finds SPNs that stand twice.",
        show: "setspn -Q ldap/dc1.corp.example.com/corp.example.com; setspn -X"
    }
    GmsaServerUnproven {
        cause: "The server that DNS or `GMSA_DOMAIN_CONTROLLERS` names is not a domain controller, or it gave a managed password that the domain's KDC does not know. A computer account can carry `ldap/HOST` and answer LDAP; only a domain controller carries `ldap/HOST/DOMAIN`. Nothing that this server said is used, and the next one is asked.",
        cure: "Compare the names in DNS with the domain controllers of the directory. Remove records of hosts that are none, and find out who wrote them. An alias or a load balancer works, if the domain controller behind it tells its own name.",
        show: "setspn -Q ldap/HOST/DOMAIN; Get-ADDomainController -Filter * | Select-Object HostName"
    }
    GmsaUnconfirmed {
        cause: "With `GMSA_KEYTAB` a managed password counts only if the KDC confirms it: a ticket for the gMSA must open with it. This KDC issues no such ticket, since the gMSA has no service name, or seals it with RC4.",
        cure: "Give the gMSA a service name and allow AES for it. Without `GMSA_KEYTAB` the ticket is renewed all the same.",
        show: "Get-ADServiceAccount NAME -Properties servicePrincipalName,msDS-SupportedEncryptionTypes"
    }
    GmsaNotFound {
        cause: "The domain has no gMSA of that name, or the login may not see it.",
        cure: "The CredSpec's `Name` is the sAMAccountName without `$`. If it is right, give the login the right to read the object (Authenticated Users has it by default).",
        show: "Get-ADServiceAccount WebApp01"
    }
    GmsaReadDenied {
        cause: "The login is not among those who may read the managed password, neither itself nor by a group. `gmsa-sidecar check` tells who is.",
        cure: "The usual way is a group: `Add-ADGroupMember GROUP LOGIN`. To name the login itself, give the whole list: `Set-ADServiceAccount WebApp01 -PrincipalsAllowedToRetrieveManagedPassword GROUP, LOGIN` replaces what was there. Groups count from the next login on: at the next attempt.",
        show: "Get-ADServiceAccount WebApp01 -Properties PrincipalsAllowedToRetrieveManagedPassword"
    }
    GmsaSearchFailed {
        cause: "The search was answered with an LDAP error; *why* has it, with AD's sub-code in words.",
        cure: "Look it up in the Directory Service log. It is tried again.",
        show: "Get-WinEvent -ComputerName DC1 -LogName 'Directory Service' -MaxEvents 20"
    }
    GmsaBlobMalformed {
        cause: "`msDS-ManagedPassword` is not laid out as MS-ADTS 2.2.19 says.",
        cure: "If another tool reads it, report a bug here, with the domain controller's version, never with the password.",
        show: "Test-ADServiceAccount WebApp01"
    }
    VolumeNotWritable {
        cause: "`GMSA_DIR` is not there (the volume is not mounted in the sidecar), or its user may not write there.",
        cure: "Mount the same volume in sidecar and app. A volume that ECS makes takes owner and mode of the image's folder: 65532:65532, 0775. So keep the user 65532, or its group: `\"user\": \"1654:65532\"`.",
        show: "aws ecs describe-task-definition --task-definition FAMILY --query 'taskDefinition.[volumes,containerDefinitions[].[name,user,mountPoints]]'"
    }
    VolumeWriteFailed {
        cause: "The volume is full, was remounted read-only, or failed.",
        cure: "Free space. The tickets that are there stay until new ones are written; they are tried again.",
        show: "gmsa-sidecar check"
    }
    VolumeNotReadable {
        cause: "Files are given to `GMSA_OWNER`, but the folder they lie in does not let that user in. Only `check` tells this: the sidecar never changes the folder's own mode.",
        cure: "Give the folder mode 0755 or 0775 where it is made (image, host, access point).",
        show: "gmsa-sidecar check"
    }
    VolumePathTaken {
        cause: "Where a ticket shall be written stands something that is not the sidecar's: a folder, a link, a file of another user.",
        cure: "Remove it, and mount the volume read-only (`\"readOnly\": true`) into every other container.",
        show: "aws ecs describe-task-definition --task-definition FAMILY --query 'taskDefinition.containerDefinitions[].[name,mountPoints]'"
    }
    InternalBug {
        cause: "A mistake in this program.",
        cure: "Report it with the log line and the version.",
        show: "gmsa-sidecar --version"
    }
}

impl Page {
    /// The page of a code; a test says that each has one.
    pub fn of(code: Code) -> Option<&'static Self> {
        PAGES.iter().find(|page| page.code == code)
    }
}

/// Where the change belongs, in words.
pub fn owner_in_words(owner: Owner) -> &'static str {
    match owner {
        Owner::TaskDefinition => "the task definition: variables, labels, roles, user, volumes",
        Owner::Network => "the network: security groups, routes, endpoints, DNS",
        Owner::CredSpec => "the CredSpec document",
        Owner::Secret => "the login's secret or keytab",
        Owner::Directory => "Active Directory",
        Owner::Us => "this project",
    }
}

/// Who tries again, and when.
pub fn retry_in_words(retry: Retry, exit: Exit) -> &'static str {
    match (retry, exit) {
        (Retry::Never, _) => "`run` and `init` end.",
        (Retry::Slowly, _) => "`run` tries again after half a minute, then less and less often; `init` ends.",
        (Retry::Soon, Exit::Unavailable) => {
            "`run` tries again within seconds, then less and less often; `init` until `GMSA_INIT_TIMEOUT`."
        }
        (Retry::Soon, _) => "`run` tries again within seconds, then less and less often; `init` ends.",
    }
}
