#!/usr/bin/env bash
# Chats with the server in a terminal, with bash, curl and jq. Each input line is a user turn; the chat ends at the end
# of the input.
#
#   bash chat.sh [http://127.0.0.1:8080]      also: API_URL, API_KEY
#   printf 'Hello.\nAnd now?\n' | bash chat.sh
set -euo pipefail

API_URL=${1:-${API_URL:-http://127.0.0.1:8080}}
API_URL=${API_URL%/}
API_KEY=${API_KEY:-}
PREAMBLE='A person talks with an assistant. The assistant gives short, friendly and true answers.'
USER_TURN=$'\nPerson: '
ASSISTANT_TURN=$'\nAssistant:'
MAX_TOKENS=256

fail() {
  echo "chat.sh: $1" >&2
  exit 1
}

# post PATH: sends standard input as a JSON body.
post() {
  # The key is passed through a file descriptor, because all users of the machine can see command line arguments.
  curl --silent --show-error --no-buffer --data-binary @- --header 'Content-Type: application/json' \
    --config <([[ -z $API_KEY ]] || jq --null-input --raw-output --arg key "$API_KEY" \
      '"header = \("Authorization: Bearer \($key)" | tojson)"') \
    "$API_URL$1"
}

# Prints the text of an event stream while it arrives. Sets `answer` to the complete text and `slot` to the slot's id.
read_answer() {
  answer=
  local line text
  while IFS= read -r line; do
    line=${line#data: }
    [[ $line == '{'* ]] || continue
    text=$(jq --raw-output 'if .error then "e" + .error.message else "t" + .content + "." end' <<<"$line")
    [[ $text == t* ]] || fail "${text#e}"
    # The period prevents `$(…)` from removing trailing newlines.
    text=${text#t}
    text=${text%.}
    printf '%s' "$text"
    answer+=$text
    if [[ $(jq .stop <<<"$line") == true ]]; then
      slot=$(jq '.id_slot // -1' <<<"$line")
      return
    fi
  done
  fail "the stream ended before the answer was complete"
}

# When the conversation exceeds the context, the server keeps the tokens of the preamble.
tokenized=$(jq --null-input --arg content "$PREAMBLE" '{$content}' | post /tokenize) || fail "$API_URL does not respond"
keep=$(jq '.tokens | length' <<<"$tokenized" 2>/dev/null) || fail "$API_URL is not a llama.cpp-compatible server"
message=$(jq --raw-output '.error.message // empty' <<<"$tokenized")
[[ -z $message ]] || fail "$message"

conversation=$PREAMBLE
slot=-1
[[ ! -t 0 ]] || echo 'Type a line; Ctrl+D quits.' >&2
while { [[ ! -t 0 ]] || printf '> ' >&2; } && { IFS= read -r line || [[ -n $line ]]; }; do
  [[ -n $line ]] || continue
  conversation+=$USER_TURN$line$ASSISTANT_TURN
  request=$(jq --null-input --arg prompt "$conversation" --arg stop "${USER_TURN% }" \
    --argjson keep "$keep" --argjson slot "$slot" --argjson max_tokens "$MAX_TOKENS" \
    '{$prompt, stream: true, cache_prompt: true, id_slot: $slot, n_keep: $keep, n_predict: $max_tokens,
      stop: [$stop], temperature: 0.4}')
  exec 3< <(post /completion <<<"$request")
  read_answer <&3
  exec 3<&-
  echo
  conversation+=$answer
done
[[ ! -t 0 ]] || echo >&2
