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
        cause: "A variable or flag has a value that cannot be used. One line reports all of them.",
        cure: "Correct each value that *why* names in `environment` of the task definition, and deploy again. If `GMSA_CREDENTIAL_SPECS` is named, check the prefix first. Only `credentialspecdomainless:` and `credentialspec:` are valid. The ARN of an S3 object or an SSM parameter follows, or `file:///path`.",
        show: "aws ecs describe-task-definition --task-definition FAMILY --query 'taskDefinition.containerDefinitions[].environment'"
    }
    ConfigNoCredSpec {
        cause: "Nothing says which CredSpecs to use. `GMSA_CREDENTIAL_SPECS` is not set, and outside ECS the sidecar cannot look for a label.",
        cure: "Set `GMSA_CREDENTIAL_SPECS=credentialspecdomainless:arn:aws:s3:::BUCKET/KEY`. On ECS the agent sets `ECS_CONTAINER_METADATA_URI_V4` (Fargate platform 1.4.0, ECS agent 1.39.0 or later). If it is missing there, something clears the environment.",
        show: "aws ecs describe-task-definition --task-definition FAMILY --query 'taskDefinition.containerDefinitions[].[name,environment,dockerLabels]'"
    }
    ConfigAccountTwice {
        cause: "Two CredSpecs, or one that is named in two ways, hold the same gMSA. Account names compare without case, as in AD.",
        cure: "Remove one of the two from the list. Two apps that need tickets of one gMSA can use the same one on the volume.",
        show: "aws s3 cp s3://BUCKET/KEY - | grep '\"Name\"'"
    }
    ConfigOwnerDenied {
        cause: "Only root can give files to another user. The sidecar runs as another user than `GMSA_OWNER`, or as root without the capability. A file system can also assign one owner to every file: NFS with root squash, EFS with an access point.",
        cure: "Run the sidecar as the app's user (`\"user\": \"1654:1654\"`) and remove `GMSA_OWNER`. Or share a group: `\"user\": \"65532:1654\"` and `GMSA_MODE=0640`. Fargate allows root but not added capabilities.",
        show: "aws ecs describe-task-definition --task-definition FAMILY --query 'taskDefinition.containerDefinitions[].[name,user]'"
    }
    ConfigListen {
        cause: "The address is in use, or it is not an address of this task. The containers of a task share one network, so the app or a second sidecar can listen there.",
        cure: "Choose another port with `GMSA_LISTEN=127.0.0.1:PORT` on the sidecar. `health` reads the same variable.",
        show: "aws ecs describe-task-definition --task-definition FAMILY --query 'taskDefinition.containerDefinitions[].[name,portMappings]'"
    }
    ConfigLoginMissing {
        cause: "The CredSpec has no `CredentialArn`. Such a CredSpec is for domain-joined hosts, where the host's own account is the login.",
        cure: "Make the CredSpec domainless: write the ARN of the login's secret into `HostAccountConfig.PluginInput.CredentialArn`. Or mount the host's keytab into the sidecar and name it in `GMSA_LOGIN_KEYTAB`.",
        show: "aws s3 cp s3://BUCKET/KEY - | grep CredentialArn"
    }
    TaskMetadataUnreachable {
        cause: "The ECS agent did not answer. At the start of a task this passes within seconds. If it lasts, the agent has a problem, or the variable names another place (a copied environment, a debugging session).",
        cure: "Wait. If it lasts outside ECS, remove `ECS_CONTAINER_METADATA_URI_V4` and set `GMSA_CREDENTIAL_SPECS`. On EC2, read the log of the ECS agent.",
        show: "curl -s \"$ECS_CONTAINER_METADATA_URI_V4/task\""
    }
    TaskMetadataMalformed {
        cause: "A server answers at the address of the ECS agent, but not with the agent's documents.",
        cure: "Correct `ECS_CONTAINER_METADATA_URI_V4`. It must name version 4 of the agent's endpoint.",
        show: "curl -s \"$ECS_CONTAINER_METADATA_URI_V4\""
    }
    TaskCredSpecNotFound {
        cause: "None of the containers that ECS has created so far has the label, and the task definition names no CredSpec. ECS creates a container that waits for the sidecar only later, so its label cannot be seen.",
        cure: "Set the label `gmsa-sidecar.credential-specs` on the sidecar's own container, or set `GMSA_CREDENTIAL_SPECS` there.",
        show: "aws ecs describe-task-definition --task-definition FAMILY --query 'taskDefinition.containerDefinitions[].[name,dockerLabels]'"
    }
    TaskLabelInvalid {
        cause: "The label holds something other than ARNs. Files and inline documents are allowed only in the sidecar's own environment, so that a label of another container cannot select the sidecar's files.",
        cure: "Write ARNs into the label, separated by spaces: `credentialspecdomainless:arn:aws:s3:::BUCKET/KEY`. Write keys with spaces or commas as a JSON array.",
        show: "aws ecs describe-task-definition --task-definition FAMILY --query 'taskDefinition.containerDefinitions[].dockerLabels'"
    }
    TaskDefinitionDenied {
        cause: "Without a label, the sidecar asks ECS for the task definition. The *task* role does not allow that.",
        cure: "Set the label; then no permission is needed. Or allow `ecs:DescribeTaskDefinition`, which takes no resource: `\"Resource\": \"*\"`.",
        show: "aws iam simulate-principal-policy --policy-source-arn TASK_ROLE_ARN --action-names ecs:DescribeTaskDefinition"
    }
    TaskDefinitionUnreachable {
        cause: "The ECS API does not answer from this subnet: there is no NAT and no VPC endpoint, or a proxy is not set.",
        cure: "Set the label; then the ECS API is not needed. Or add the VPC endpoint `com.amazonaws.REGION.ecs`, a NAT route, or `HTTPS_PROXY`.",
        show: "aws ec2 describe-vpc-endpoints --filters Name=vpc-id,Values=VPC --query 'VpcEndpoints[].ServiceName'"
    }
    TaskStartTimeout {
        cause: "The task was not ready within `GMSA_START_TIMEOUT`, and no step has failed: one of them takes very long. If a step had failed, its fault would be reported instead.",
        cure: "Run `gmsa-sidecar check`, which shows the time of each step. Then fix the slow step, or raise `GMSA_START_TIMEOUT`.",
        show: "aws logs tail LOG_GROUP --filter-pattern sidecar.start-timeout"
    }
    TaskRequestInvalid {
        cause: "The ECS agent, or another client of the host daemon, sent a request that cannot be used: no CredSpec, an empty login, a name that is not an account's, or a lease id that is not one. The daemon refuses it before it asks anybody.",
        cure: "Correct the part that *what* names. The agent takes `username`, `password` and `domainName` from the secret that the CredSpec names, as they are.",
        show: "journalctl -u gmsa-host --grep host.lease-refused"
    }
    TaskHostBusy {
        cause: "The host daemon has 256 calls under way, or 4096 leases.",
        cure: "Wait: the agent tries again. Leases that no container has mounted are removed after a day. If their number grows, look for tasks that are started and stopped in a loop.",
        show: "curl -s http://127.0.0.1:8488/leases"
    }
    TaskHostTimeout {
        cause: "The host daemon has no ticket after 18 seconds, and no step has failed yet. The agent waits 20 seconds.",
        cure: "Check DNS, routes and security groups between this host and the domain controllers. The log has the step that takes so long.",
        show: "journalctl -u gmsa-host --since -5min"
    }
    TaskHostDenied {
        cause: "A process that is not root called the host daemon. A process that may call can stop apps by deleting their leases.",
        cure: "Call as root. To let other users call, set `GMSA_HOST_GROUP` to a group that they are in, and give the socket to that group.",
        show: "journalctl -u gmsa-host --grep host.caller-refused"
    }
    CredSpecNotFound {
        cause: "The bucket, the key or the parameter does not exist. Keys are used as they are written: `%20` is not a space, and case matters.",
        cure: "Compare the ARN with the object, character by character. Upload the CredSpec if it does not exist yet.",
        show: "aws s3api head-object --bucket BUCKET --key KEY"
    }
    CredSpecDenied {
        cause: "AWS denies the read. The *task* role needs the permission; the sidecar does not use the execution role, unlike the platform's own fetcher. A bucket policy, a VPC endpoint policy or KMS can also deny; *why* says which, if AWS does. Without `s3:ListBucket`, S3 reports a missing key as denied.",
        cure: "Allow `s3:GetObject` on `arn:aws:s3:::BUCKET/KEY` in the policy of the task role. With a customer-managed key, also allow `kms:Decrypt` on that key.",
        show: "aws iam simulate-principal-policy --policy-source-arn TASK_ROLE_ARN --action-names s3:GetObject --resource-arns arn:aws:s3:::BUCKET/KEY"
    }
    CredSpecAwsCredentials {
        cause: "The container has no AWS credentials, or AWS does not accept them. The task definition has no task role, or the keys in the environment are wrong or expired.",
        cure: "Set `taskRoleArn` in the task definition, and allow `ecs-tasks.amazonaws.com` to assume the role.",
        show: "aws ecs describe-task-definition --task-definition FAMILY --query taskDefinition.taskRoleArn"
    }
    CredSpecAwsCredentialsFailed {
        cause: "The endpoint of the task role's credentials answered with an error (400, 429 or 5xx) or not in time. The ECS agent does so for some seconds after a start, and under load.",
        cure: "Wait: it is asked again within seconds. If it lasts, the task role cannot be assumed: check `taskRoleArn`, and that the role's trust policy allows `ecs-tasks.amazonaws.com`.",
        show: "aws ecs describe-task-definition --task-definition FAMILY --query taskDefinition.taskRoleArn"
    }
    CredSpecUnreachable {
        cause: "S3, or SSM for a parameter, does not answer. A private subnet has no NAT and no VPC endpoint, a security group is closed, or a proxy is not set or not trusted.",
        cure: "Add the S3 gateway endpoint to the route table of the subnet; it is free. SSM has an interface endpoint. Or add a NAT route, or set `HTTPS_PROXY`. With a proxy that intercepts TLS, set `AWS_CA_BUNDLE`.",
        show: "aws ec2 describe-vpc-endpoints --filters Name=vpc-id,Values=VPC --query 'VpcEndpoints[].[ServiceName,RouteTableIds]'"
    }
    CredSpecRegion {
        cause: "The ARN of an S3 object has no region, and outside ECS nothing else gives it.",
        cure: "Set `AWS_REGION`. On ECS, the sidecar takes the region from the task's ARN. If this fault appears there, the metadata has no such ARN.",
        show: "aws s3api get-bucket-location --bucket BUCKET"
    }
    CredSpecUnreadable {
        cause: "The file that `file:///path` names does not exist, or the sidecar's user (65532 in the image) cannot read it.",
        cure: "Mount the file into the sidecar's container, readable for its user.",
        show: "aws ecs describe-task-definition --task-definition FAMILY --query 'taskDefinition.containerDefinitions[].[name,user,mountPoints]'"
    }
    CredSpecTooLarge {
        cause: "The object is larger than 64 KiB, so it is not a CredSpec. A CredSpec has about one kilobyte.",
        cure: "Name the CredSpec's object.",
        show: "aws s3api head-object --bucket BUCKET --key KEY --query ContentLength"
    }
    CredSpecMalformed {
        cause: "The document is not JSON, or a field is missing or has an impossible value. *why* names it.",
        cure: "Correct the field. Or create the CredSpec again: run `New-CredentialSpec -AccountName WebApp01 -Domain corp.example.com` on a Windows host, then add `HostAccountConfig`.",
        show: "aws s3 cp s3://BUCKET/KEY - | python3 -m json.tool"
    }
    CredSpecCredentialArnMissing {
        cause: "The prefix `credentialspecdomainless:` promises a secret, but the document has no `CredentialArn`.",
        cure: "Add `ActiveDirectoryConfig.HostAccountConfig.PluginInput.CredentialArn` with the ARN of the login's secret.",
        show: "aws s3 cp s3://BUCKET/KEY - | grep CredentialArn"
    }
    SecretNotFound {
        cause: "The secret does not exist in the region and account of its ARN, or it has no current version.",
        cure: "Compare `CredentialArn` with the ARN of the secret. Its last six characters are random and change when a secret is deleted and created again. An ARN without them also works: then only the name counts.",
        show: "aws secretsmanager describe-secret --secret-id ARN"
    }
    SecretDenied {
        cause: "Secrets Manager denies the read to the task role. The policy of the secret can deny it too, or the role is not allowed to use the customer-managed key.",
        cure: "Allow `secretsmanager:GetSecretValue` on the secret's ARN to the *task* role, and `kms:Decrypt` on the key. End the ARN with `-??????` if you write the name of the secret.",
        show: "aws iam simulate-principal-policy --policy-source-arn TASK_ROLE_ARN --action-names secretsmanager:GetSecretValue --resource-arns ARN"
    }
    SecretAwsCredentials {
        cause: "The cause is the same as for `credspec-aws-credentials`. The CredSpec itself did not come from AWS.",
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
        cure: "Add the interface endpoint `com.amazonaws.REGION.secretsmanager` with private DNS. Its security group must allow TCP 443 from the task. Or add a NAT route, or set `HTTPS_PROXY`.",
        show: "aws ec2 describe-vpc-endpoints --filters Name=vpc-id,Values=VPC --query 'VpcEndpoints[].[ServiceName,PrivateDnsEnabled,Groups]'"
    }
    SecretUnusable {
        cause: "The secret is scheduled for deletion, or has no value yet.",
        cure: "Restore it with `aws secretsmanager restore-secret --secret-id ARN`, or store a value.",
        show: "aws secretsmanager describe-secret --secret-id ARN --query '[DeletedDate,VersionIdsToStages]'"
    }
    SecretTooLarge {
        cause: "`CredentialArn` names another secret. The secret of a login has some hundred bytes.",
        cure: "Write the ARN of the login's secret into `CredentialArn`.",
        show: "aws secretsmanager describe-secret --secret-id ARN"
    }
    SecretMalformed {
        cause: "The secret's text is not a JSON object, or one of its values cannot be used. The text itself is never shown. Usually the secret holds a bare password, or text that was copied from a form.",
        cure: "Store `{\"username\":\"svc\",\"password\":\"...\",\"domainName\":\"corp.example.com\"}`. In the console, use *Key/value*, not *Plaintext*.",
        show: "aws secretsmanager get-secret-value --secret-id ARN --query SecretString --output text | python3 -c 'import json, sys; print(sorted(json.load(sys.stdin)))'"
    }
    SecretKeyMissing {
        cause: "The JSON object lacks a key, or its value is empty. Names are `username` and `password` (or `usernameOfStandardUserAccount` and `passwordOfStandardUserAccount`).",
        cure: "Add the key that *why* names.",
        show: "aws secretsmanager get-secret-value --secret-id ARN --query SecretString --output text | python3 -c 'import json, sys; print(sorted(json.load(sys.stdin)))'"
    }
    SecretKeytabUnusable {
        cause: "`GMSA_LOGIN_KEYTAB` names a file that does not exist or that the sidecar's user cannot read. Or the file is not a keytab, or it has no AES key of `GMSA_LOGIN_PRINCIPAL`.",
        cure: "Mount the keytab read-only into the sidecar's container. A keytab with only RC4 keys cannot be used. Create it again with AES: `ktpass -crypto AES256-SHA1`, `adcli update` or `net ads keytab create`.",
        show: "klist -ke /etc/krb5.keytab"
    }
    DcSrvNotFound {
        cause: "The DNS servers of the task do not know the AD domain. In a VPC, the Amazon resolver knows it only through a Resolver rule or through the DHCP options of the VPC.",
        cure: "Forward the domain to the domain controllers with a Route 53 Resolver outbound endpoint and a rule. Or set their addresses in the DHCP options. Or set `GMSA_DNS_SERVERS=ADDRESS,ADDRESS` for the sidecar alone. If *why* shows a misspelt name, correct `DnsName` in the CredSpec.",
        show: "nslookup -type=SRV _ldap._tcp.dc._msdcs.corp.example.com"
    }
    DcDnsUnreachable {
        cause: "The DNS server does not answer, or answers with an error. Port 53 is closed between task and server, or the address is wrong.",
        cure: "Allow port 53, UDP and TCP, in the security groups of task and server. Or name other servers in `GMSA_DNS_SERVERS`.",
        show: "nslookup -type=SRV _ldap._tcp.dc._msdcs.corp.example.com DNS_SERVER"
    }
    DcAddressNotFound {
        cause: "DNS has the name of a domain controller, but not its address. Or `GMSA_DOMAIN_CONTROLLERS` names a host that does not exist.",
        cure: "Forward the zone that holds the names of the domain controllers as well. Or correct the name.",
        show: "nslookup dc1.corp.example.com"
    }
    DcUnreachable {
        cause: "The connection failed. A security group, a route, a network ACL or the firewall of the domain controller blocks it, or the domain controller is down. *Refused* means that the host is up and no service listens. A time-out means that something drops the packets.",
        cure: "Allow TCP 88 and 389 (636 instead of 389 with `GMSA_LDAP=ldaps`) from the task's security group to the domain controllers. Check the route (peering, transit gateway, VPN) in both directions.",
        show: "Test-NetConnection dc1.corp.example.com -Port 88"
    }
    TicketLoginRefused {
        cause: "The password in the secret is not the login's. It was changed in one place only, or a rotation is not complete.",
        cure: "Store the current password in the secret. The sidecar reads the secret again by itself. It does not send a refused password again for 24 hours.",
        show: "aws secretsmanager describe-secret --secret-id ARN --query '[LastChangedDate,LastRotatedDate]'; Get-ADUser NAME -Properties PasswordLastSet, BadPwdCount, LastBadPasswordAttempt"
    }
    TicketLoginHeld {
        cause: "Two attempts to log in were refused or got no answer within 30 minutes. A third wrong password could lock the account, so none is sent. After repeated silence the wait doubles, up to four hours.",
        cure: "Store the current password in the secret and wait. The sidecar tries again by itself. Do not restart the task: a new process does not know the failed attempts and sends up to two more.",
        show: "Get-ADUser NAME -Properties LockedOut, BadPwdCount, LastBadPasswordAttempt"
    }
    TicketLoginUnknown {
        cause: "The domain has no account with this name. The name is misspelt, the account is in another domain, or it is new and has not replicated yet.",
        cure: "Correct the secret. `username` is the sAMAccountName (also `name@domain` or `DOMAIN\\name`), `domainName` is the DNS name of the domain.",
        show: "Get-ADUser NAME -Server corp.example.com"
    }
    TicketLoginRevoked {
        cause: "The account is disabled, locked or expired, and the KDC does not say which. Where it does, the code is `ticket-login-disabled`, `ticket-login-locked` or `ticket-login-expired`.",
        cure: "Look at the account, then see the page of that code.",
        show: "Get-ADUser NAME -Properties Enabled, LockedOut, AccountExpirationDate, BadPwdCount"
    }
    TicketLoginDisabled {
        cause: "An administrator or a clean-up job has disabled the account.",
        cure: "`Enable-ADAccount NAME`. If the account was replaced, store the new login in the secret instead.",
        show: "Get-ADUser NAME -Properties Enabled, whenChanged"
    }
    TicketLoginLocked {
        cause: "Too many wrong passwords were sent for the account, usually by another program or task with an old password. The sidecar sends at most two within 30 minutes.",
        cure: "Find the source of the wrong passwords (event 4740 on the PDC emulator names the computer), stop it, then `Unlock-ADAccount NAME`. Otherwise the account is locked again.",
        show: "Get-ADUser NAME -Properties LockedOut, BadPwdCount, LastBadPasswordAttempt"
    }
    TicketLoginExpired {
        cause: "The account has an expiry date, which has passed. This is not the password's age.",
        cure: "`Clear-ADAccountExpiration NAME`, or `Set-ADAccountExpiration NAME -DateTime ...`.",
        show: "Get-ADUser NAME -Properties AccountExpirationDate"
    }
    TicketLoginRestricted {
        cause: "The account cannot log on at this hour or from this host, or an authentication policy or silo restricts it to other hosts.",
        cure: "Remove the restriction for this account. Containers have no computer account, so a list of workstations cannot include them.",
        show: "Get-ADUser NAME -Properties LogonHours, LogonWorkstations, msDS-AssignedAuthNPolicy, msDS-AssignedAuthNPolicySilo"
    }
    TicketLoginPasswordExpired {
        cause: "The password is older than the domain allows.",
        cure: "Set a new password and store it in the secret. For a service account whose password is rotated: `Set-ADUser NAME -PasswordNeverExpires $true`.",
        show: "Get-ADUser NAME -Properties PasswordExpired, PasswordLastSet, PasswordNeverExpires"
    }
    TicketLoginMustChange {
        cause: "The account has the flag `User must change password at next logon`, as a new account often has. The sidecar cannot change a password.",
        cure: "`Set-ADUser NAME -ChangePasswordAtLogon $false` keeps the password. If it is an initial password that others know, set a new one and store it in the secret.",
        show: "Get-ADUser NAME -Properties PasswordExpired, PasswordLastSet, pwdLastSet"
    }
    TicketGmsaRefused {
        cause: "The directory returned the managed password, current and previous, and the KDC refuses both. Either the password changed a moment ago and has not replicated to this domain controller, or its clock is wrong, so it computes another password.",
        cure: "The sidecar tries again, on other domain controllers too. If it lasts, check replication and the clocks of the domain controllers.",
        show: "repadmin /showrepl; Get-ADServiceAccount WebApp01 -Properties PasswordLastSet, msDS-KeyVersionNumber"
    }
    TicketGmsaUnknown {
        cause: "LDAP shows the gMSA, but the KDC does not know it. It is new or was renamed, and has not replicated to all domain controllers.",
        cure: "Wait for replication, or start it: `repadmin /syncall /AdeP`.",
        show: "Get-ADServiceAccount WebApp01 -Server dc1.corp.example.com"
    }
    TicketGmsaRevoked {
        cause: "The gMSA is disabled or expired, or an authentication policy forbids the logon.",
        cure: "`Set-ADServiceAccount WebApp01 -Enabled $true`.",
        show: "Get-ADServiceAccount WebApp01 -Properties Enabled, AccountExpirationDate, msDS-AssignedAuthNPolicy"
    }
    TicketServiceUnknown {
        cause: "No account has the SPN, or more than one has it; AD answers both in the same way. Or clients use another name: for SQL Server, ODBC, JDBC and Go ask for `MSSQLSvc/HOST:1433`, and .NET's SqlClient for `MSSQLSvc/HOST`.",
        cure: "`setspn -S SPN ACCOUNT` gives the SPN to the account that the service runs as, and refuses a second one. `setspn -D SPN ACCOUNT` removes it from a wrong account. `gmsa-sidecar check` shows which accounts have the name.",
        show: "setspn -Q MSSQLSvc/db.corp.example.com:1433; setspn -X"
    }
    TicketTrust {
        cause: "The login's domain (`domainName` in the secret, or the realm in the keytab) differs from the CredSpec's `DnsName`, and its KDC knows no trust path there. The login is proven only to domain controllers of its own domain.",
        cure: "Correct `domainName`, or remove it if it is the gMSA's domain. Otherwise let the gMSA's domain trust the login's domain, or use a login of the gMSA's domain.",
        show: "Get-ADTrust -Filter *"
    }
    TicketClockSkew {
        cause: "The clocks of this host and of the domain controller differ. Kerberos allows five minutes. The sidecar works around up to twelve hours, and so do MIT Kerberos clients that use its ccache; other clients do not. The clock of EC2 and Fargate hosts is usually right (169.254.169.123), so check the domain controller first.",
        cure: "Set the clock: `w32tm /resync` on the domain controller, or `chronyc makestep` on an EC2 host. A container has no clock of its own.",
        show: "w32tm /query /status; gmsa-sidecar check"
    }
    TicketEncryption {
        cause: "The account has no AES key. Either it is restricted to RC4, or its password was last set before the domain supported AES.",
        cure: "`Set-ADUser NAME -KerberosEncryptionType AES128,AES256`, then set the password once. For a gMSA: `Set-ADServiceAccount NAME -KerberosEncryptionType AES128,AES256`, then wait for its next password.",
        show: "Get-ADUser NAME -Properties msDS-SupportedEncryptionTypes, PasswordLastSet"
    }
    TicketPreauth {
        cause: "The account requires a smart card, or the domain requires FAST (Kerberos armoring).",
        cure: "`Set-ADUser NAME -SmartcardLogonRequired $false`. Set armoring to `supported`, not `required`, for this account.",
        show: "Get-ADUser NAME -Properties SmartcardLogonRequired, msDS-AssignedAuthNPolicy"
    }
    TicketKdcFailed {
        cause: "The KDC answered with an error that has no fault code of its own. *why* has its number and name.",
        cure: "Look it up in the System log of the domain controller. The sidecar tries again.",
        show: "Get-WinEvent -ComputerName DC1 -FilterHashtable @{LogName='System'; ProviderName='Microsoft-Windows-Kerberos-Key-Distribution-Center'} -MaxEvents 20"
    }
    TicketReplyInvalid {
        cause: "The answer is not a valid Kerberos message, was truncated or changed, or does not verify with the account's key.",
        cure: "Check what is between the task and the domain controller (a proxy, an inspecting firewall), and which service listens on port 88.",
        show: "Test-NetConnection dc1.corp.example.com -Port 88"
    }
    GmsaConnectionLost {
        cause: "The LDAP service closed the connection or did not answer in time. It restarts or is overloaded, or a firewall drops idle or unknown traffic.",
        cure: "The sidecar tries again, on other domain controllers too. If it lasts, read the Directory Service log and check firewalls that inspect LDAP.",
        show: "Get-WinEvent -ComputerName DC1 -LogName 'Directory Service' -MaxEvents 20"
    }
    GmsaTlsUntrusted {
        cause: "With `GMSA_LDAP=ldaps`, the certificate of the domain controller comes from a CA that the sidecar does not trust, usually the company's own. The sidecar sent nothing to it.",
        cure: "Export the root of the issuing chain as PEM (`certutil -ca.cert`, then `certutil -encode`) and name the file in `GMSA_LDAP_CA_FILE`. If you do not know the issuer in *why*, something intercepts the connection.",
        show: "openssl s_client -connect dc1.corp.example.com:636 -showcerts </dev/null"
    }
    GmsaTlsCertificate {
        cause: "The issuer is trusted, but the certificate is expired, not yet valid, for another name or for another use. A domain controller keeps an old certificate until it has a better one.",
        cure: "Renew it with the template *Kerberos Authentication* or *Domain Controller Authentication*, which include the DNS name. If it is not valid *yet*, check the clock of this host.",
        show: "openssl s_client -connect dc1.corp.example.com:636 </dev/null | openssl x509 -noout -subject -ext subjectAltName -dates"
    }
    GmsaTlsFailed {
        cause: "The TLS handshake on port 636 failed. A domain controller without a certificate accepts the connection and closes it at once. Firewalls that inspect TLS do the same.",
        cure: "Enroll a certificate for the domain controller. Or remove `GMSA_LDAP`: on port 389 Kerberos seals the connection, which needs no certificate.",
        show: "openssl s_client -connect dc1.corp.example.com:636 </dev/null"
    }
    GmsaBindRefused {
        cause: "LDAP does not accept the login's ticket. The domain controller's own SPN is on another account, its clock is wrong, or a policy forbids the logon. On port 636, `80090346` means that the domain controller has another certificate than the sidecar sees. Then something intercepts TLS, and channel binding has protected the ticket.",
        cure: "*why* has the sub-code in words. `setspn -X` finds SPNs that more than one account has.",
        show: "setspn -Q ldap/dc1.corp.example.com/corp.example.com; setspn -X"
    }
    GmsaServerUnproven {
        cause: "The server that DNS or `GMSA_DOMAIN_CONTROLLERS` names is not a domain controller, or it returned a managed password that the domain's KDC does not know. A computer account can have the SPN `ldap/HOST` and answer LDAP. Only a domain controller has `ldap/HOST/DOMAIN`. The sidecar uses nothing from this server and asks the next one.",
        cure: "Compare the names in DNS with the domain controllers of the directory. Remove records of other hosts, and find out who wrote them. An alias works if the domain controller reports its own name by LDAP ping.",
        show: "setspn -Q ldap/HOST/DOMAIN; Get-ADDomainController -Filter * | Select-Object HostName"
    }
    GmsaUnconfirmed {
        cause: "With `GMSA_KEYTAB`, a managed password counts only if the KDC confirms it: it must decrypt a ticket for the gMSA. This KDC issues no such ticket because the gMSA has no SPN, or encrypts it with RC4.",
        cure: "Give the gMSA an SPN and allow AES for it. Without `GMSA_KEYTAB`, the ticket is renewed anyway.",
        show: "Get-ADServiceAccount NAME -Properties servicePrincipalName,msDS-SupportedEncryptionTypes"
    }
    GmsaNotFound {
        cause: "The domain has no gMSA with that name, or the login cannot see it.",
        cure: "`Name` in the CredSpec is the sAMAccountName without `$`. If it is right, allow the login to read the object. Authenticated Users have that right by default.",
        show: "Get-ADServiceAccount WebApp01"
    }
    GmsaReadDenied {
        cause: "The login is not allowed to read the managed password, neither itself nor through a group. `gmsa-sidecar check` shows which accounts are.",
        cure: "Usually a group is allowed: `Add-ADGroupMember GROUP LOGIN`. To allow the login itself, give the whole list, which replaces the old one: `Set-ADServiceAccount WebApp01 -PrincipalsAllowedToRetrieveManagedPassword GROUP, LOGIN`. A new group counts from the next login, which is the next attempt.",
        show: "Get-ADServiceAccount WebApp01 -Properties PrincipalsAllowedToRetrieveManagedPassword"
    }
    GmsaSearchFailed {
        cause: "The domain controller answered the search with an LDAP error. *why* has it, with AD's sub-code in words.",
        cure: "Look it up in the Directory Service log. The sidecar tries again.",
        show: "Get-WinEvent -ComputerName DC1 -LogName 'Directory Service' -MaxEvents 20"
    }
    GmsaBlobMalformed {
        cause: "`msDS-ManagedPassword` does not have the layout of MS-ADTS 2.2.19.",
        cure: "If another tool can read it, report a bug with the version of the domain controller, and never with the password.",
        show: "Test-ADServiceAccount WebApp01"
    }
    VolumeNotWritable {
        cause: "`GMSA_DIR` does not exist because the volume is not mounted in the sidecar, or its user cannot write there.",
        cure: "Mount the same volume in sidecar and app. A volume that ECS creates has the owner and mode of the image's folder: 65532:65532, 0775. So keep the user 65532, or its group: `\"user\": \"1654:65532\"`.",
        show: "aws ecs describe-task-definition --task-definition FAMILY --query 'taskDefinition.[volumes,containerDefinitions[].[name,user,mountPoints]]'"
    }
    VolumeWriteFailed {
        cause: "The volume is full, was remounted read-only, or failed.",
        cure: "Free space. The old tickets stay until new ones are written. The sidecar tries again.",
        show: "gmsa-sidecar check"
    }
    VolumeNotReadable {
        cause: "Files belong to `GMSA_OWNER`, but that user cannot enter their folder. Only `check` reports this. The sidecar never changes the mode of the folder itself.",
        cure: "Create the folder with mode 0755 or 0775 (image, host, access point).",
        show: "gmsa-sidecar check"
    }
    VolumePathTaken {
        cause: "At the path of a ticket there is something that the sidecar did not write: a folder, a link, or a file of another user.",
        cure: "Remove it, and mount the volume read-only (`\"readOnly\": true`) into every other container.",
        show: "aws ecs describe-task-definition --task-definition FAMILY --query 'taskDefinition.containerDefinitions[].[name,mountPoints]'"
    }
    InternalBug {
        cause: "A bug in this program.",
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
