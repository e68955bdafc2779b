// pool HOST:PORT SPN: a pool (see pool.py) by gokrb5, used as go-mssqldb uses it: krb5.conf, the cache, a SPNEGO token.
// The TDS around it is the least that logs in.
package main

import (
	"bufio"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"os"
	"regexp"
	"strconv"
	"strings"
	"time"
	"unicode/utf16"

	"github.com/jcmturner/gokrb5/v8/client"
	"github.com/jcmturner/gokrb5/v8/config"
	"github.com/jcmturner/gokrb5/v8/credentials"
	"github.com/jcmturner/gokrb5/v8/spnego"
)

func token(spn string) ([]byte, error) {
	conf, err := config.Load(os.Getenv("KRB5_CONFIG"))
	if err != nil {
		return nil, err
	}
	cache, err := credentials.LoadCCache(os.Getenv("KRB5CCNAME"))
	if err != nil {
		return nil, err
	}
	krb5, err := client.NewFromCCache(cache, conf, client.DisablePAFXFAST(true))
	if err != nil {
		return nil, err
	}
	context, err := spnego.SPNEGOClient(krb5, spn).InitSecContext()
	if err != nil {
		return nil, err
	}
	return context.Marshal()
}

func call(stream net.Conn, kind byte, body []byte) ([]byte, error) {
	for at := 0; at < len(body); at += 4088 {
		size, last := len(body)-at, byte(1)
		if size > 4088 {
			size, last = 4088, 0
		}
		packet := append([]byte{kind, last, 0, 0, 0, 0, 0, 0}, body[at:at+size]...)
		binary.BigEndian.PutUint16(packet[2:], uint16(len(packet)))
		if _, err := stream.Write(packet); err != nil {
			return nil, err
		}
	}
	var all []byte
	for last := false; !last; {
		head := make([]byte, 8)
		if _, err := io.ReadFull(stream, head); err != nil {
			return nil, err
		}
		part := make([]byte, binary.BigEndian.Uint16(head[2:])-8)
		if _, err := io.ReadFull(stream, part); err != nil {
			return nil, err
		}
		all, last = append(all, part...), head[1]&1 == 1
	}
	return all, nil
}

func connect(where, spn string) (net.Conn, error) {
	token, err := token(spn)
	if err != nil {
		return nil, err
	}
	stream, err := net.Dial("tcp", where)
	if err != nil {
		return nil, err
	}
	if _, err := call(stream, 0x12, []byte{1, 0, 6, 0, 1, 0xff, 2}); err != nil { // PRELOGIN: no encryption
		return nil, err
	}
	login := make([]byte, 94, 94+len(token))
	little := binary.LittleEndian
	little.PutUint32(login, uint32(94+len(token)))
	little.PutUint32(login[4:], 0x74000004)
	little.PutUint32(login[8:], 4096)
	login[25] = 0x80 // integrated security
	little.PutUint16(login[78:], 94)
	little.PutUint16(login[80:], uint16(len(token)))
	answer, err := call(stream, 0x10, append(login, token...))
	if err == nil && answer[0] == 0xaa {
		err = fmt.Errorf("refused: %s", text(answer))
	}
	return stream, err
}

func text(data []byte) string {
	units := make([]uint16, len(data)/2)
	for i := range units {
		units[i] = binary.LittleEndian.Uint16(data[2*i:])
	}
	return string(utf16.Decode(units))
}

var seen = regexp.MustCompile(`principal=[\x20-\x7e]*`)

func query(stream net.Conn) (string, error) {
	batch := make([]byte, 22)
	binary.LittleEndian.PutUint32(batch, 22)
	binary.LittleEndian.PutUint32(batch[4:], 18)
	binary.LittleEndian.PutUint16(batch[8:], 2)
	binary.LittleEndian.PutUint32(batch[18:], 1)
	for _, unit := range utf16.Encode([]rune("SELECT SEEN()")) {
		batch = append(batch, byte(unit), byte(unit>>8))
	}
	answer, err := call(stream, 1, batch)
	if err != nil {
		return "", err
	}
	found := seen.FindString(text(answer) + text(answer[1:]))
	if found == "" {
		return "", fmt.Errorf("an answer without a row")
	}
	return found, nil
}

func main() {
	var pool []net.Conn
	for lines := bufio.NewScanner(os.Stdin); lines.Scan(); {
		words, start := strings.Fields(lines.Text()), time.Now()
		number := len(pool) - 1
		var err error
		if words[0] == "open" {
			var stream net.Conn
			if stream, err = connect(os.Args[1], os.Args[2]); err == nil {
				pool, number = append(pool, stream), len(pool)
			}
		} else {
			number, err = strconv.Atoi(words[1])
		}
		answer := ""
		if err == nil {
			answer, err = query(pool[number])
		}
		if err != nil {
			answer = "failed " + err.Error()
		} else {
			answer = fmt.Sprintf("ok %d %s", number, answer)
		}
		fmt.Println(time.Since(start).Milliseconds(), strings.Join(strings.Fields(answer), " "))
	}
}
