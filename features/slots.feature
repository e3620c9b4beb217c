Feature: The slots
  A slot is the right to run one request. It remembers what it ran last.

  Scenario: A slot can be insisted on
    When I ask for a completion:
      """
      {"prompt": "Hello", "n_predict": 2, "id_slot": 3}
      """
    Then the answer's "id_slot" is 3

  Scenario: The slots remember their last request
    When I ask for a completion:
      """
      {"prompt": "Remember me", "n_predict": 2, "id_slot": 2, "temperature": 0.5}
      """
    And I ask for the slots
    Then the status is 200
    And the answer's "2.prompt" is "Remember me"
    And the answer's "2.state" is 0
    And the answer's "2.temperature" is 0.5
    And the answer's "2.next_token.n_decoded" is 2

  Scenario: A slot shows what it is doing
    Given a client that reads an endless stream in the slot 1
    When I ask for the slots
    Then the answer's "1.state" is 1
    And the answer's "1.next_token.has_next_token" is true
    And the answer's "1.prompt" is "Once upon a time"
    When the endless stream is left
    Then all slots become idle

  Scenario: A slot that is not there
    When I ask for a completion:
      """
      {"prompt": "Hello", "n_predict": 2, "id_slot": 9}
      """
    Then the status is 400
    And the error's param is "id_slot"

  Scenario: The health counts them
    Given a client that reads an endless stream in the slot 1
    When I ask for the health with the slots
    Then the answer's "slots_idle" is 3
    And the answer's "slots_processing" is 1
    And the answer's "slots.1.state" is 1
    When the endless stream is left
    Then all slots become idle

  Scenario: The slots can be hidden
    Given a server that answers nothing that can be switched off
    When I ask for the slots
    Then the status is 501
    And the error says "This server does not support slots endpoint."
