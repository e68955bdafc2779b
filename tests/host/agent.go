// A second stand-in for the ECS agent, by grpc-go, the library that the agent uses: agent SOCKET < CALLS > ANSWERS
//
// The lines are those of agent.py, as far as {"method", "request", "deadline"}. Each call is made as the agent makes it: a look
// at the socket's file, a connection of its own, a deadline of 20 s. The messages are written by hand from the table of the
// protocol, so that no generator has to be fetched; the tags are what a generator writes.
package main

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"time"

	"github.com/golang/protobuf/proto"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

type Specs struct {
	CredspecContents []string `protobuf:"bytes,1,rep,name=credspec_contents" json:"credspec_contents,omitempty"`
}

type Lease struct {
	LeaseId string   `protobuf:"bytes,1,opt,name=lease_id" json:"lease_id,omitempty"`
	Paths   []string `protobuf:"bytes,2,rep,name=created_kerberos_file_paths" json:"created_kerberos_file_paths,omitempty"`
}

type SpecsOfLogin struct {
	CredspecContents []string `protobuf:"bytes,1,rep,name=credspec_contents" json:"credspec_contents,omitempty"`
	Username         string   `protobuf:"bytes,2,opt,name=username" json:"username,omitempty"`
	Password         string   `protobuf:"bytes,3,opt,name=password" json:"password,omitempty"`
	Domain           string   `protobuf:"bytes,4,opt,name=domain" json:"domain,omitempty"`
}

type Login struct {
	Username string `protobuf:"bytes,1,opt,name=username" json:"username,omitempty"`
	Password string `protobuf:"bytes,2,opt,name=password" json:"password,omitempty"`
	Domain   string `protobuf:"bytes,3,opt,name=domain" json:"domain,omitempty"`
}

type Renewed struct {
	Paths []string `protobuf:"bytes,1,rep,name=renewed_kerberos_file_paths" json:"renewed_kerberos_file_paths,omitempty"`
}

type Delete struct {
	LeaseId string `protobuf:"bytes,1,opt,name=lease_id" json:"lease_id,omitempty"`
}

type Deleted struct {
	LeaseId string   `protobuf:"bytes,1,opt,name=lease_id" json:"lease_id,omitempty"`
	Paths   []string `protobuf:"bytes,2,rep,name=deleted_kerberos_file_paths" json:"deleted_kerberos_file_paths,omitempty"`
}

type Health struct {
	Service string `protobuf:"bytes,1,opt,name=service" json:"service,omitempty"`
}

type Status struct {
	Status string `protobuf:"bytes,1,opt,name=status" json:"status,omitempty"`
}

type Arns struct {
	CredspecArns    []string `protobuf:"bytes,1,rep,name=credspec_arns" json:"credspec_arns,omitempty"`
	AccessKeyId     string   `protobuf:"bytes,2,opt,name=access_key_id" json:"access_key_id,omitempty"`
	SecretAccessKey string   `protobuf:"bytes,3,opt,name=secret_access_key" json:"secret_access_key,omitempty"`
	SessionToken    string   `protobuf:"bytes,4,opt,name=session_token" json:"session_token,omitempty"`
	Region          string   `protobuf:"bytes,5,opt,name=region" json:"region,omitempty"`
}

type ArnTicket struct {
	CredspecArns string `protobuf:"bytes,1,opt,name=credspec_arns" json:"credspec_arns,omitempty"`
	Paths        string `protobuf:"bytes,2,opt,name=created_kerberos_file_paths" json:"created_kerberos_file_paths,omitempty"`
}

type ArnLease struct {
	LeaseId string       `protobuf:"bytes,1,opt,name=lease_id" json:"lease_id,omitempty"`
	Tickets []*ArnTicket `protobuf:"bytes,2,rep,name=krb_ticket_response_map" json:"krb_ticket_response_map,omitempty"`
}

type AwsKeys struct {
	AccessKeyId     string `protobuf:"bytes,1,opt,name=access_key_id" json:"access_key_id,omitempty"`
	SecretAccessKey string `protobuf:"bytes,2,opt,name=secret_access_key" json:"secret_access_key,omitempty"`
	SessionToken    string `protobuf:"bytes,3,opt,name=session_token" json:"session_token,omitempty"`
	Region          string `protobuf:"bytes,4,opt,name=region" json:"region,omitempty"`
}

func (m *Specs) Reset()                { *m = Specs{} }
func (m *Specs) String() string        { return proto.CompactTextString(m) }
func (*Specs) ProtoMessage()           {}
func (m *Lease) Reset()                { *m = Lease{} }
func (m *Lease) String() string        { return proto.CompactTextString(m) }
func (*Lease) ProtoMessage()           {}
func (m *SpecsOfLogin) Reset()         { *m = SpecsOfLogin{} }
func (m *SpecsOfLogin) String() string { return "a login" }
func (*SpecsOfLogin) ProtoMessage()    {}
func (m *Login) Reset()                { *m = Login{} }
func (m *Login) String() string        { return "a login" }
func (*Login) ProtoMessage()           {}
func (m *Renewed) Reset()              { *m = Renewed{} }
func (m *Renewed) String() string      { return proto.CompactTextString(m) }
func (*Renewed) ProtoMessage()         {}
func (m *Delete) Reset()               { *m = Delete{} }
func (m *Delete) String() string       { return proto.CompactTextString(m) }
func (*Delete) ProtoMessage()          {}
func (m *Deleted) Reset()              { *m = Deleted{} }
func (m *Deleted) String() string      { return proto.CompactTextString(m) }
func (*Deleted) ProtoMessage()         {}
func (m *Health) Reset()               { *m = Health{} }
func (m *Health) String() string       { return proto.CompactTextString(m) }
func (*Health) ProtoMessage()          {}
func (m *Status) Reset()               { *m = Status{} }
func (m *Status) String() string       { return proto.CompactTextString(m) }
func (*Status) ProtoMessage()          {}
func (m *Arns) Reset()                 { *m = Arns{} }
func (m *Arns) String() string         { return "AWS credentials" }
func (*Arns) ProtoMessage()            {}
func (m *ArnTicket) Reset()            { *m = ArnTicket{} }
func (m *ArnTicket) String() string    { return proto.CompactTextString(m) }
func (*ArnTicket) ProtoMessage()       {}
func (m *ArnLease) Reset()             { *m = ArnLease{} }
func (m *ArnLease) String() string     { return proto.CompactTextString(m) }
func (*ArnLease) ProtoMessage()        {}
func (m *AwsKeys) Reset()              { *m = AwsKeys{} }
func (m *AwsKeys) String() string      { return "AWS credentials" }
func (*AwsKeys) ProtoMessage()         {}

type method struct{ request, reply proto.Message }

// Fresh messages for a call of this method.
func messages(name string) (method, bool) {
	known := map[string]method{
		"AddKerberosLease":                  {&Specs{}, &Lease{}},
		"AddNonDomainJoinedKerberosLease":   {&SpecsOfLogin{}, &Lease{}},
		"RenewNonDomainJoinedKerberosLease": {&Login{}, &Renewed{}},
		"DeleteKerberosLease":               {&Delete{}, &Deleted{}},
		"HealthCheck":                       {&Health{}, &Status{}},
		"AddKerberosArnLease":               {&Arns{}, &ArnLease{}},
		"RenewKerberosArnLease":             {&AwsKeys{}, &Status{}},
	}
	found, ok := known[name]
	return found, ok
}

type call struct {
	Method   string          `json:"method"`
	Request  json.RawMessage `json:"request"`
	Deadline float64         `json:"deadline"`
}

type answer struct {
	Code     string        `json:"code"`
	Text     string        `json:"text"`
	Attempts int           `json:"attempts"`
	Seconds  float64       `json:"seconds"`
	Reply    proto.Message `json:"reply"`
}

// As JSON and the other stand-in spell them.
var names = map[codes.Code]string{
	codes.OK: "OK", codes.Canceled: "CANCELLED", codes.InvalidArgument: "INVALID_ARGUMENT", codes.NotFound: "NOT_FOUND",
	codes.DeadlineExceeded: "DEADLINE_EXCEEDED", codes.PermissionDenied: "PERMISSION_DENIED",
	codes.FailedPrecondition: "FAILED_PRECONDITION", codes.Unavailable: "UNAVAILABLE",
	codes.Unauthenticated: "UNAUTHENTICATED", codes.ResourceExhausted: "RESOURCE_EXHAUSTED", codes.Internal: "INTERNAL",
}

func makeCall(socket string, asked call) (answer, error) {
	messages, ok := messages(asked.Method)
	if !ok {
		return answer{}, fmt.Errorf("there is no method %s", asked.Method)
	}
	if len(asked.Request) > 0 {
		if err := json.Unmarshal(asked.Request, messages.request); err != nil {
			return answer{}, err
		}
	}
	if _, err := os.Stat(socket); err != nil {
		return answer{}, err
	}
	deadline := 20.0
	if asked.Deadline > 0 {
		deadline = asked.Deadline
	}
	begun := time.Now()
	context, cancel := context.WithTimeout(context.Background(), time.Duration(deadline*float64(time.Second)))
	defer cancel()
	connection, err := grpc.DialContext(context, "unix:"+socket, grpc.WithInsecure())
	if err != nil {
		return answer{}, err
	}
	defer connection.Close()
	err = connection.Invoke(context, "/credentialsfetcher.CredentialsFetcherService/"+asked.Method, messages.request, messages.reply)
	made := answer{Attempts: 1, Seconds: time.Since(begun).Seconds()}
	told := status.Convert(err)
	made.Text = told.Message()
	if made.Code, ok = names[told.Code()]; !ok {
		made.Code = told.Code().String()
	}
	if err == nil {
		made.Reply = messages.reply
	}
	return made, nil
}

func main() {
	lines := bufio.NewScanner(os.Stdin)
	lines.Buffer(nil, 16<<20)
	for lines.Scan() {
		var asked call
		err := json.Unmarshal(lines.Bytes(), &asked)
		var made answer
		if err == nil {
			made, err = makeCall(os.Args[1], asked)
		}
		if err != nil {
			fmt.Fprintln(os.Stderr, "agent.go:", err)
			os.Exit(1)
		}
		text, _ := json.Marshal(made)
		fmt.Println(string(text))
	}
}
