Feature: Graphs that others exported for ONNX Runtime
  A model of two layers with weights of no meaning, as onnxruntime-genai and optimum export it.

  Scenario Outline: It says how it reads what is past, and many together say what each says alone
    Given a server with what <tool> exported
    When I ask for the props
    Then the status is 200
    And the answer's "attention" is "<attention>"
    And the answer's "deterministic" is true
    And the answer's "chat_template" contains "im_start"
    Given sixteen prompts
    When each is continued alone
    And all are continued at once
    Then the texts are the same
    When all are continued at once, from the cache
    Then the texts are the same
    When all are streamed at once
    Then the texts are the same

    Examples:
      | tool              | attention    |
      | onnxruntime-genai | paged        |
      | optimum           | past_present |

  Scenario Outline: Its chats end where its configuration says, and embeddings are made of its hidden states
    Given a server with what <tool> exported
    When I chat:
      """
      {"messages": [{"role": "user", "content": "Say hello."}], "max_tokens": 4, "temperature": 0}
      """
    Then the status is 200
    And the answer's "choices.0.message.role" is "assistant"
    When I embed:
      """
      {"content": "It stood"}
      """
    Then the answer's "embedding" has 64 entries
    And its length is 1

    Examples:
      | tool              |
      | onnxruntime-genai |
      | optimum           |
